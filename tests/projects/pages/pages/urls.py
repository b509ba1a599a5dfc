from django.urls import path

from . import views

urlpatterns = [
    path("", views.hello),
    path("page/", views.page),
    path("notes/", views.notes),
    path("sleep/", views.sleep),
    path("block/", views.block),
    path("wait/", views.wait),
    path("events/", views.events),
    path("endless/", views.endless),
    path("crowd/", views.crowd),
]
