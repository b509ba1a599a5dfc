// Files on their way into a message: each is uploaded when it is chosen, with a progress
// bar, and can be cancelled, retried and taken back until the message is sent.
//
// XMLHttpRequest and not fetch(), which does not tell how far an upload has come.

import { element, size } from "./dom.js";

export class Files {
  #list;
  #status;
  #url;
  #token;
  #limit;
  #most;
  #items = new Set();

  constructor({ list, status, url, token, limit, most }) {
    this.#list = list;
    this.#status = status;
    this.#url = url;
    this.#token = token;
    this.#limit = limit;
    this.#most = most;
  }

  get uploading() {
    return [...this.#items].some((item) => item.request);
  }

  get failed() {
    return [...this.#items].some((item) => item.failed);
  }

  // The uploaded files, which belong to the caller from now on.
  take() {
    const attachments = [...this.#items].map((item) => item.attachment);
    this.#items.clear();
    this.#list.replaceChildren();
    return attachments;
  }

  // Returns why some were not taken, or an empty string.
  add(files) {
    const complaints = [];
    for (const file of files) {
      if (this.#items.size >= this.#most) {
        complaints.push(`A message carries at most ${this.#most} files.`);
        break;
      }
      if (file.size > this.#limit) {
        complaints.push(`${file.name} is larger than ${size(this.#limit)}.`);
        continue;
      }
      this.#upload(this.#show(file));
    }
    return complaints.join(" ");
  }

  #show(file) {
    const progress = element("progress", { max: 100, value: 0 });
    progress.setAttribute("aria-label", `Uploading ${file.name}`);
    const state = element("span", { className: "state" });
    const retry = element("button", {
      type: "button",
      className: "plain",
      textContent: "Retry",
      hidden: true,
    });
    const remove = element("button", {
      type: "button",
      className: "plain remove",
      textContent: "×",
      title: "Remove",
    });
    remove.setAttribute("aria-label", `Remove ${file.name}`);
    const name = element("span", { className: "name", textContent: file.name });
    const row = element("li", {}, name, state, progress, retry, remove);
    const item = { file, row, progress, state, retry };
    retry.addEventListener("click", () => {
      this.#upload(item);
      remove.focus();
    });
    remove.addEventListener("click", () => {
      item.request?.abort();
      this.#items.delete(item);
      row.remove();
      document.querySelector("#text").focus();
    });
    this.#items.add(item);
    this.#list.append(row);
    return item;
  }

  #upload(item) {
    const request = new XMLHttpRequest();
    const done = () => {
      item.request = null;
      item.progress.hidden = true;
    };
    const fail = (reason) => {
      done();
      item.failed = true;
      item.retry.hidden = false;
      item.row.classList.add("failed");
      item.state.textContent = reason;
      this.#status.textContent = `${item.file.name}: ${reason}`;
    };
    item.request = request;
    item.failed = false;
    item.retry.hidden = true;
    item.progress.hidden = false;
    item.progress.value = 0;
    item.row.classList.remove("failed");
    item.state.textContent = "0 %";
    request.upload.addEventListener("progress", (event) => {
      if (!event.lengthComputable) return;
      const percent = Math.floor((100 * event.loaded) / event.total);
      item.progress.value = percent;
      item.state.textContent = `${percent} %`;
    });
    request.addEventListener("load", () => {
      const answer = request.response;
      if (request.status !== 201 || !answer) {
        fail(answer?.error ?? `The server refused it (${request.status}).`);
        return;
      }
      done();
      item.attachment = answer;
      item.row.classList.add("done");
      item.state.textContent = size(answer.size);
      this.#status.textContent = `${item.file.name} is uploaded.`;
    });
    request.addEventListener("error", () => fail("The upload was interrupted."));

    const body = new FormData();
    body.append("file", item.file);
    request.open("POST", this.#url);
    request.responseType = "json";
    request.setRequestHeader("X-CSRFToken", this.#token);
    request.send(body);
  }
}
