from django.urls import path

from example_project.chat import clock, views

app_name = "chat"

urlpatterns = [
    path("", views.rooms, name="rooms"),
    path("rooms/<slug:slug>/", views.room, name="room"),
    path("rooms/<slug:slug>/earlier/", views.earlier, name="earlier"),
    path("uploads/", views.upload, name="upload"),
    path("uploads/<uuid:pk>/", views.attachment, name="attachment"),
    path("clock/", clock.clock, name="clock"),
]
