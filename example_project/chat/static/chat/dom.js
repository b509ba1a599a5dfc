// Making elements without ever making HTML: text stays text.

export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

export function size(bytes) {
  if (bytes < 1024) return `${bytes} bytes`;
  if (bytes < 1024 ** 2) return `${Math.round(bytes / 1024)} KB`;
  return `${(bytes / 1024 ** 2).toFixed(1).replace(".0", "")} MB`;
}

// Addresses in a text become links; nothing else becomes anything.
export function linked(text) {
  return text.split(/(https?:\/\/[^\s<>"]*[^\s<>".,:;!?)\]}'])/).map((part, index) =>
    index % 2
      ? element("a", {
          href: part,
          textContent: part,
          target: "_blank",
          rel: "noopener noreferrer nofollow",
        })
      : part,
  );
}

// The same person has the same colour everywhere; the style sheet makes it readable.
export function avatar(person) {
  const made = element("span", {
    className: "avatar",
    textContent: [...person.name][0].toUpperCase(),
  });
  made.setAttribute("aria-hidden", "true");
  made.style.setProperty("--hue", (person.id * 137.5) % 360);
  return made;
}
