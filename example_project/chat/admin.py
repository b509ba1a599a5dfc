from django.contrib import admin
from django.http import HttpRequest

from example_project.chat.models import Attachment, Message, Presence, Room


@admin.register(Room)
class RoomAdmin(admin.ModelAdmin):
    list_display = ["name", "topic", "last_number", "created_at"]
    search_fields = ["name", "topic"]
    prepopulated_fields = {"slug": ["name"]}


class AttachmentInline(admin.TabularInline):
    model = Attachment
    extra = 0
    fields = ["name", "size", "image_type"]
    readonly_fields = fields

    def has_add_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return False


@admin.register(Message)
class MessageAdmin(admin.ModelAdmin):
    list_display = ["room", "number", "author", "text", "sent_at"]
    list_display_links = ["number"]
    list_filter = ["room", "sent_at"]
    list_select_related = ["room", "author"]
    search_fields = ["text", "author__username"]
    readonly_fields = ["room", "number", "author", "sent_at"]
    inlines = [AttachmentInline]

    def has_add_permission(self, request: HttpRequest) -> bool:
        # A message is numbered by history.post, not by a form.
        return False


@admin.register(Presence)
class PresenceAdmin(admin.ModelAdmin):
    list_display = ["room", "user", "last_seen"]
    list_filter = ["room"]
    list_select_related = ["room", "user"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return False
