// Search in pages that are opened as files: browsers refuse workers there, so a frame does the work.
// The theme knows the class by this name, and would fetch one from a server otherwise.
class IFrameWorker extends EventTarget {
  constructor(url) {
    super();
    const frame = document.createElement("iframe");
    frame.hidden = true;
    document.body.appendChild(frame);
    this.frame = frame.contentWindow;
    this.waiting = [];
    window.addEventListener("message", (event) => {
      if (event.source !== this.frame) return;
      this.dispatchEvent(new MessageEvent("message", { data: event.data }));
    });
    this.frame.started = () => {
      for (const data of this.waiting) this.frame.postMessage(data, "*");
      this.waiting = null;
    };
    const page = this.frame.document;
    page.open();
    page.write(
      "<body><script>const wait = window.postMessage.bind(window);" +
        "window.postMessage = (data, ...others) =>" +
        " others.length ? wait(data, ...others) : parent.postMessage(data, '*');</" + "script>" +
        `<script src="${new URL(url, location.href)}" onload="started()"></` + "script></body>",
    );
    page.close();
  }

  postMessage(data) {
    if (this.waiting) this.waiting.push(data);
    else this.frame.postMessage(data, "*");
  }
}

if (location.protocol === "file:") {
  window.IFrameWorker = IFrameWorker;
  window.Worker = IFrameWorker;
}
