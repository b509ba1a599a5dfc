// A room: what arrives goes to the log, what is written goes through the outbox.
//
// Messages are numbered without gaps. `last` is the number up to which we have seen
// everything; a message that is not the next one means that we missed something, and we
// ask. The heartbeat carries the newest number, so that even the loss of the very last
// message is noticed.

import { Connection } from "./connection.js";
import { avatar, element } from "./dom.js";
import { Files } from "./files.js";
import { Log } from "./log.js";
import { Outbox } from "./outbox.js";

const page = JSON.parse(document.querySelector("#page").textContent);
const composer = document.querySelector("#composer");
const text = document.querySelector("#text");
const chosen = document.querySelector("#file");
const complaint = document.querySelector("#complaint");
const earlier = document.querySelector("#earlier");
const title = document.title;

const log = new Log(page.me);
const outbox = new Outbox(`parlour.${page.me.id}.${page.slug}`);
const files = new Files({
  list: document.querySelector("#files"),
  status: document.querySelector("#upload-status"),
  url: composer.dataset.uploads,
  token: composer.elements.csrfmiddlewaretoken.value,
  limit: page.uploadLimit,
  most: page.mostAttachments,
});
const scheme = location.protocol === "https:" ? "wss" : "ws";
const connection = new Connection(
  `${scheme}://${location.host}/ws/rooms/${page.slug}/`,
  page.heartbeat,
);

let last = 0;
let first = Infinity;
let unread = 0;

// Receiving

function show(message, options) {
  if (message.number <= last) return;
  last = message.number;
  if (message.author.id === page.me.id && outbox.remove(message.id)) {
    log.forget(message.id);
  }
  log.append(message, options);
  if (document.hidden && options?.aloud !== false) {
    unread += 1;
    document.title = `(${unread}) ${title}`;
  }
}

const receive = {
  history({ messages, last: seen, more }) {
    for (const message of messages) show(message);
    last = Math.max(last, seen);
    if (more) {
      ask();
    } else {
      deliver();
    }
  },
  message({ message }) {
    if (message.number > last + 1) {
      ask();
    } else if (message.number > last) {
      show(message);
    } else if (message.author.id === page.me.id && outbox.remove(message.id)) {
      // Sent again, and it had arrived the first time.
      log.forget(message.id);
    }
  },
  beat({ last: newest }) {
    if (newest > last) ask();
  },
  refused({ id, reason }) {
    const entry = outbox.get(id);
    if (!entry) return;
    refusals.add(id);
    log.explain(id, reason, { refused: true });
  },
  presence({ version, people }) {
    showPeople(version, people);
  },
};

function ask() {
  connection.send({ type: "hello", after: last });
}

// Sending

const refusals = new Set();

function deliver() {
  for (const entry of outbox) {
    if (!refusals.has(entry.id)) send(entry);
  }
}

function send(entry) {
  const sent = connection.send({
    type: "send",
    id: entry.id,
    text: entry.text,
    attachments: entry.attachments.map((file) => file.id),
  });
  log.explain(entry.id, sent ? "Sending…" : "Waiting for the connection");
}

function expect(entry) {
  log.expect(entry, {
    retry() {
      refusals.delete(entry.id);
      send(entry);
    },
    discard() {
      refusals.delete(entry.id);
      outbox.remove(entry.id);
      log.forget(entry.id);
      text.focus();
    },
  });
}

function complain(reason) {
  complaint.textContent = reason;
  complaint.hidden = !reason;
}

composer.addEventListener("submit", (event) => {
  event.preventDefault();
  if (files.uploading) {
    complain("Wait for the upload, or remove the file.");
    return;
  }
  if (files.failed) {
    complain("A file is not uploaded. Retry, or remove it.");
    return;
  }
  const written = text.value.trim();
  const attachments = files.take();
  complain("");
  if (!written && !attachments.length) return;
  const entry = outbox.add(written, attachments);
  text.value = "";
  grow();
  expect(entry);
  send(entry);
  log.follow();
});

text.addEventListener("keydown", (event) => {
  // While a word is being composed (Japanese, Chinese …), Enter belongs to it.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  composer.requestSubmit();
});

function grow() {
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight + text.offsetHeight - text.clientHeight}px`;
}
text.addEventListener("input", grow);

// Files: chosen, pasted or dropped

chosen.addEventListener("change", () => {
  complain(files.add(chosen.files));
  chosen.value = "";
});

text.addEventListener("paste", (event) => {
  if (!event.clipboardData.files.length) return;
  event.preventDefault();
  complain(files.add(event.clipboardData.files));
});

const main = document.querySelector("#main");
main.addEventListener("dragover", (event) => {
  if (!event.dataTransfer.types.includes("Files")) return;
  event.preventDefault();
  main.classList.add("dropping");
});
main.addEventListener("dragleave", (event) => {
  if (!main.contains(event.relatedTarget)) main.classList.remove("dropping");
});
main.addEventListener("drop", (event) => {
  main.classList.remove("dropping");
  if (!event.dataTransfer.files.length) return;
  event.preventDefault();
  complain(files.add(event.dataTransfer.files));
});

// Who is here

let peopleVersion = 0;

function showPeople(version, people) {
  if (version <= peopleVersion) return;
  peopleVersion = version;
  document.querySelector("#people-count").textContent = people.length;
  document.querySelector("#people").replaceChildren(
    ...people.map((person) =>
      element(
        "li",
        {},
        avatar(person),
        element("span", {
          textContent: person.name + (person.id === page.me.id ? " (you)" : ""),
        }),
      ),
    ),
  );
}

// The connection

const state = document.querySelector("#connection");
const stateText = document.querySelector("#connection-text");
const connectNow = document.querySelector("#connect-now");

function report(name, words) {
  state.dataset.state = name;
  stateText.textContent = words;
  connectNow.hidden = name !== "lost";
}

connection.addEventListener("open", () => {
  report("open", "Connected");
  ask();
});
connection.addEventListener("message", ({ detail }) => receive[detail.type]?.(detail));
connection.addEventListener("lost", () => {
  report("lost", "Connection lost, trying again…");
  for (const entry of outbox) {
    if (!refusals.has(entry.id)) log.explain(entry.id, "Waiting for the connection");
  }
});
connection.addEventListener("refused", ({ detail: code }) => {
  if (code === 4401) {
    // The login page brings us back here, and the outbox waits in this tab.
    location.reload();
    return;
  }
  report("refused", "Disconnected");
  const words = document.querySelector("#dead-end");
  words.textContent =
    code === 4404 ? "This room has been closed." : "This page is outdated: reload it.";
  words.hidden = false;
  composer.hidden = true;
});
connectNow.addEventListener("click", () => {
  connection.now();
  text.focus();
});

document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  unread = 0;
  document.title = title;
});

// What was before

earlier.addEventListener("click", async () => {
  earlier.disabled = true;
  try {
    const answer = await fetch(`earlier/?before=${first}`);
    if (!answer.ok) throw new Error(answer.statusText);
    const { messages, more } = await answer.json();
    if (messages.length) {
      first = messages[0].number;
      const row = log.prepend(messages);
      row.tabIndex = -1;
      row.focus({ preventScroll: true });
    }
    earlier.hidden = !more;
  } catch {
    complain("The earlier messages could not be loaded. Try again.");
  } finally {
    earlier.disabled = false;
  }
});

// Begin

for (const message of page.history.messages) show(message, { aloud: false });
last = Math.max(last, page.history.last);
first = page.history.messages[0]?.number ?? 1;
earlier.hidden = !page.history.more;
for (const entry of outbox) expect(entry);
log.begin();
connection.open();
if (matchMedia("(pointer: fine)").matches) text.focus({ preventScroll: true });
