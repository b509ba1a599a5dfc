// What is on the screen: the messages in the order of their numbers, and below them what
// is not sent yet.

import { avatar, element, linked, size } from "./dom.js";

const SAME_BREATH = 5 * 60_000; // milliseconds within which a name is not repeated
const NEAR = 80; // pixels from the end that still count as reading the newest

export class Log {
  #me;
  #box = document.querySelector("#log");
  #messages = document.querySelector("#messages");
  #pending = document.querySelector("#pending");
  #empty = document.querySelector("#empty");
  #newest = document.querySelector("#newest");
  #announcements = document.querySelector("#announcements");
  #following = true;

  constructor(me) {
    this.#me = me;
    this.#box.addEventListener("scroll", () => {
      this.#following = this.#distance() < NEAR;
      if (this.#following) this.#newest.hidden = true;
    });
    // Whatever changes the heights (a late image, the keyboard of a phone), who was
    // reading the newest message goes on reading it.
    const observer = new ResizeObserver(() => this.#following && this.#toEnd());
    for (const watched of [this.#box, this.#messages, this.#pending]) {
      observer.observe(watched);
    }
    this.#newest.addEventListener("click", () => {
      this.follow();
      document.querySelector("#text").focus();
    });
  }

  // Go to the newest message and stay there.
  follow() {
    this.#following = true;
    this.#newest.hidden = true;
    this.#toEnd();
  }

  append(message, { aloud = true } = {}) {
    this.#messages.append(this.#row(message, this.#messages.lastElementChild));
    if (!aloud) return;
    if (message.author.id !== this.#me.id) {
      this.#announce(message);
      if (!this.#following) this.#newest.hidden = false;
    }
  }

  // Put older messages above, without moving what is being read.
  prepend(messages) {
    const before = this.#box.scrollHeight - this.#box.scrollTop;
    const rows = [];
    for (const message of messages) rows.push(this.#row(message, rows.at(-1)));
    const first = this.#messages.firstElementChild;
    this.#messages.prepend(...rows);
    if (first) this.#join(first, rows.at(-1));
    this.#box.scrollTop = this.#box.scrollHeight - before;
    return rows[0];
  }

  expect(entry, { retry, discard }) {
    const again = element("button", {
      type: "button",
      className: "plain",
      textContent: "Try again",
    });
    const away = element("button", {
      type: "button",
      className: "plain",
      textContent: "Discard",
    });
    again.addEventListener("click", retry);
    away.addEventListener("click", discard);
    const row = this.#row({
      author: this.#me,
      text: entry.text,
      attachments: entry.attachments,
    });
    row.dataset.id = entry.id;
    row.classList.add("pending");
    row.querySelector(".body").append(
      element(
        "p",
        { className: "state" },
        element("span", { className: "reason" }),
        element("span", { className: "choices", hidden: true }, again, " ", away),
      ),
    );
    this.#pending.append(row);
    this.#empty.hidden = true;
  }

  // Say what an unsent message is waiting for; one that was refused offers a choice.
  explain(id, reason, { refused = false } = {}) {
    const row = this.#unsent(id);
    if (!row) return;
    row.querySelector(".reason").textContent = reason;
    row.querySelector(".choices").hidden = !refused;
    row.classList.toggle("refused", refused);
    if (refused) this.#announcements.append(element("p", { textContent: reason }));
  }

  forget(id) {
    this.#unsent(id)?.remove();
    this.#settle();
  }

  #settle() {
    this.#empty.hidden = Boolean(
      this.#messages.childElementCount || this.#pending.childElementCount,
    );
  }

  // Called when the first history is in.
  begin() {
    this.#settle();
    this.follow();
  }

  #unsent(id) {
    return [...this.#pending.children].find((row) => row.dataset.id === id);
  }

  #announce(message) {
    const files = message.attachments.map((file) => file.name).join(", ");
    const said = [message.text, files && `attached: ${files}`].filter(Boolean).join(", ");
    this.#announcements.append(
      element("p", { textContent: `${message.author.name}: ${said}` }),
    );
    while (this.#announcements.childElementCount > 20) {
      this.#announcements.firstElementChild.remove();
    }
  }

  #row(message, previous) {
    this.#empty.hidden = true;
    const head = element(
      "p",
      { className: "head" },
      element("strong", { textContent: message.author.name }),
    );
    const body = element("div", { className: "body" }, head);
    if (message.text) {
      body.append(element("p", { className: "text" }, ...linked(message.text)));
    }
    for (const file of message.attachments) body.append(attached(file));
    const row = element("li", { className: "message" }, avatar(message.author), body);
    row.dataset.author = message.author.id;
    row.classList.toggle("mine", message.author.id === this.#me.id);
    if (message.sent_at) {
      const sent = new Date(message.sent_at);
      row.dataset.number = message.number;
      row.dataset.sent = sent.getTime();
      row.dataset.day = sent.toLocaleDateString([], {
        weekday: "long",
        day: "numeric",
        month: "long",
        year: "numeric",
      });
      head.append(
        " ",
        element("time", {
          dateTime: message.sent_at,
          title: sent.toLocaleString(),
          textContent: sent.toLocaleTimeString([], {
            hour: "2-digit",
            minute: "2-digit",
          }),
        }),
      );
      this.#join(row, previous);
    }
    return row;
  }

  // A message right after one of the same author is shown as its continuation, and the
  // first one of a day under that day's name.
  #join(row, previous) {
    const newDay = previous?.dataset.day !== row.dataset.day;
    row.classList.toggle("first-of-day", newDay);
    row.querySelector(".day")?.remove();
    if (newDay) {
      row.prepend(element("p", { className: "day", textContent: row.dataset.day }));
    }
    row.classList.toggle(
      "continued",
      !newDay &&
        previous.dataset.author === row.dataset.author &&
        row.dataset.sent - previous.dataset.sent < SAME_BREATH,
    );
  }

  #distance() {
    return this.#box.scrollHeight - this.#box.scrollTop - this.#box.clientHeight;
  }

  #toEnd() {
    this.#box.scrollTop = this.#box.scrollHeight;
  }
}

function attached(file) {
  const link = element("a", { href: file.url });
  if (file.image) {
    link.className = "picture";
    link.target = "_blank";
    link.append(element("img", { src: file.url, alt: file.name, loading: "lazy" }));
  } else {
    link.className = "file";
    link.download = file.name;
    link.append(
      element("span", { className: "name", textContent: file.name }),
      element("span", { className: "size", textContent: size(file.size) }),
    );
  }
  return link;
}
