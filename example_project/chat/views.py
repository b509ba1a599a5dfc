"""The pages, and what the scripts on them fetch."""

import uuid

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.db.models import Count, Max, OuterRef, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import aget_object_or_404, get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import (
    require_http_methods,
    require_POST,
    require_safe,
)

from example_project.chat import history, presence, uploads
from example_project.chat.forms import RoomForm
from example_project.chat.models import Attachment, Room


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def rooms(request: HttpRequest) -> HttpResponse:
    form = RoomForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        return redirect(form.save())
    people = (
        presence.fresh()
        .filter(room=OuterRef("pk"))
        .order_by()
        .values("room")
        .annotate(people=Count("user", distinct=True))
        .values("people")
    )
    found = Room.objects.annotate(
        people=Coalesce(Subquery(people), 0), last_sent_at=Max("messages__sent_at")
    ).order_by("name")
    return render(request, "chat/rooms.html", {"rooms": found, "form": form})


@login_required
@require_safe
@never_cache
def room(request: HttpRequest, slug: str) -> HttpResponse:
    found = get_object_or_404(Room, slug=slug)
    # What the scripts need to know; chat/static/chat/room.js reads it.
    page = {
        "me": {"id": request.user.pk, "name": request.user.get_username()},
        "slug": found.slug,
        "history": history.before(found),
        "heartbeat": settings.CHAT_HEARTBEAT,
        "longestText": history.LONGEST_TEXT,
        "mostAttachments": history.MOST_ATTACHMENTS,
        "uploadLimit": settings.CHAT_UPLOAD_LIMIT,
    }
    return render(request, "chat/room.html", {"room": found, "page": page})


@login_required
@require_safe
@never_cache
def earlier(request: HttpRequest, slug: str) -> HttpResponse:
    """A page of history from before ``?before=NUMBER``."""
    found = get_object_or_404(Room, slug=slug)
    try:
        number = int(request.GET["before"])
    except (KeyError, ValueError):
        return JsonResponse({"error": "`before` is a number."}, status=400)
    return JsonResponse(history.before(found, number))


@require_POST
def upload(request: HttpRequest) -> HttpResponse:
    # A script cannot follow a redirect to a form: it wants to hear "log in".
    if not request.user.is_authenticated:
        return JsonResponse({"error": "Log in again, please."}, status=401)
    file = request.FILES.get("file")
    if file is None:
        return JsonResponse({"error": "There is no file in this upload."}, status=400)
    try:
        attachment = uploads.keep(file, request.user)
    except uploads.TooLarge as refusal:
        return JsonResponse({"error": str(refusal)}, status=413)
    return JsonResponse(history.attachment_as_json(attachment), status=201)


@login_required
@require_safe
async def attachment(request: HttpRequest, pk: uuid.UUID) -> HttpResponseBase:
    """An attached file, for everybody; one that is not sent yet, for its uploader."""
    user = await request.auser()
    visible = Attachment.objects.exclude(message=None) | Attachment.objects.filter(
        uploader=user
    )
    return uploads.response(await aget_object_or_404(visible, pk=pk))
