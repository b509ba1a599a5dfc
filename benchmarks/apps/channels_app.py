"""Channels: a consumer that echoes, and one that sends to a group.

The layer is the one in memory. ``/group`` joins everybody; a text message from one goes
to all.
"""

import django
from django.conf import settings

settings.configure(
    SECRET_KEY="for benchmarks only",
    ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=["channels"],
    CHANNEL_LAYERS={
        "default": {
            "BACKEND": "channels.layers.InMemoryChannelLayer",
            "CONFIG": {"capacity": 1000},
        }
    },
    LOGGING_CONFIG=None,
)
django.setup(set_prefix=False)

from channels.generic.websocket import AsyncWebsocketConsumer  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.urls import path  # noqa: E402


class Echo(AsyncWebsocketConsumer):
    async def receive(self, text_data=None, bytes_data=None):
        await self.send(text_data=text_data)


class Group(AsyncWebsocketConsumer):
    groups = ["everybody"]

    async def receive(self, text_data=None, bytes_data=None):
        message = {"type": "tell", "text": text_data}
        await self.channel_layer.group_send("everybody", message)

    async def tell(self, event):
        await self.send(text_data=event["text"])


app = ProtocolTypeRouter(
    {"websocket": URLRouter([path("", Echo.as_asgi()), path("group", Group.as_asgi())])}
)
