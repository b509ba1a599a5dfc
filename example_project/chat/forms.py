from django import forms
from django.utils.text import slugify

from example_project.chat.models import Room


class RoomForm(forms.ModelForm):
    class Meta:
        model = Room
        fields = ["name", "topic"]

    def clean_name(self) -> str:
        name = self.cleaned_data["name"]
        self.instance.slug = slugify(name)
        if not self.instance.slug:
            raise forms.ValidationError("Use some letters from a to z, or digits.")
        if Room.objects.filter(slug=self.instance.slug).exists():
            raise forms.ValidationError("There is a room by this name already.")
        return name
