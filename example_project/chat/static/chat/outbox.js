// What was written and has not been seen to arrive.
//
// A message stays here until the server has shown it to us, through lost connections and
// reloads of the page. It keeps the id it was given first, by which the server knows it
// again however often it is sent.

export class Outbox {
  #key;
  #entries;

  constructor(key) {
    this.#key = key;
    this.#entries = new Map();
    try {
      for (const entry of JSON.parse(sessionStorage.getItem(key)) ?? []) {
        this.#entries.set(entry.id, entry);
      }
    } catch {
      // No storage, or not ours: begin with an empty box.
    }
  }

  [Symbol.iterator]() {
    return this.#entries.values();
  }

  get(id) {
    return this.#entries.get(id);
  }

  add(text, attachments) {
    const entry = { id: uuid(), text, attachments };
    this.#entries.set(entry.id, entry);
    this.#save();
    return entry;
  }

  // True if it was here.
  remove(id) {
    const was = this.#entries.delete(id);
    if (was) this.#save();
    return was;
  }

  #save() {
    try {
      sessionStorage.setItem(this.#key, JSON.stringify([...this.#entries.values()]));
    } catch {
      // Full or forbidden: the box then lasts until the page is reloaded.
    }
  }
}

// crypto.randomUUID exists behind TLS and on localhost only, and a phone that tries a
// development server has neither.
function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}
