// Loads the data of the report. At file:// addresses a page cannot fetch, so each part is a script that calls panopticReport(key, payload).
"use strict";

const report = {};

report.data = (() => {
  const FILES = "report_files/";
  const KEPT = 8; // payloads of images that stay in memory
  const payloads = new Map(); // key -> promise, least recently used first
  const arrived = new Map(); // key -> payload of a script that has just run

  window.panopticReport = (key, payload) => arrived.set(key, payload);

  function addScript(key, path) {
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = FILES + path;
      const finish = () => {
        script.remove();
        if (arrived.has(key)) resolve(arrived.get(key));
        else
          reject(
            new Error(
              `${FILES}${path} could not be read. Keep report.html next to its folder ${FILES}, or write the report again.`,
            ),
          );
        arrived.delete(key);
      };
      script.onload = finish;
      script.onerror = finish;
      document.head.append(script);
    });
  }

  // Returns a promise of the payload of one script; it is loaded once and kept until KEPT others have been loaded.
  function load(key, path) {
    const promise = payloads.get(key) ?? addScript(key, path);
    payloads.delete(key);
    payloads.set(key, promise);
    promise.catch(() => payloads.delete(key));
    while (payloads.size > KEPT) payloads.delete(payloads.keys().next().value);
    return promise;
  }

  const file = (folder, id, suffix) => `${folder}/${encodeURIComponent(id)}${suffix}`;

  return {
    loadIndex: () => addScript("index", "index.js"),
    loadImage: (id) => load(id, file("images", id, ".js")),
    // Address of the thumbnail of an entry of index.images, or "" if it has none.
    thumbUrl: (image) => (image.thumb ? FILES + file("thumbs", image.id, ".jpg") : ""),
    photoUrl: (id) => FILES + file("photos", id, ".jpg"),
  };
})();
