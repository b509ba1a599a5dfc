import asyncio
import threading
import time

from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from django.shortcuts import render

from .models import Note

MESSAGE = "first edition"

#: Longer than any test waits.
AGES = 3600

inside = 0
most_inside = 0
company = threading.Event()


def hello(request):
    return JsonResponse({"message": MESSAGE, "request": type(request).__name__})


def page(request):
    return render(request, "page.html")


def notes(request):
    return JsonResponse({"notes": list(Note.objects.values_list("text", flat=True))})


def sleep(request):
    print("a synchronous view sleeps")
    time.sleep(AGES)
    return HttpResponse()


async def block(request):
    print("an async view blocks the loop")
    time.sleep(AGES)
    return HttpResponse()


async def wait(request):
    print("an async view waits")
    await asyncio.sleep(AGES)
    return HttpResponse()


async def events(request):
    async def content():
        print("an event stream begins")
        yield b"data: hello\n\n"
        await asyncio.sleep(AGES)

    return StreamingHttpResponse(content(), content_type="text/event-stream")


async def endless(request):
    async def content():
        while True:
            yield b"x" * 65536

    return StreamingHttpResponse(content())


def crowd(request):
    """How many requests were ever in here at once, and in which thread this one is.

    Whoever else may come in at the same time has ``seconds`` to do so.
    """
    global inside, most_inside
    inside += 1
    most_inside = max(most_inside, inside)
    if inside > 1:
        company.set()
    company.wait(float(request.GET["seconds"]))
    inside -= 1
    return JsonResponse({"most": most_inside, "thread": threading.get_ident()})
