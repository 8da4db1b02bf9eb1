// Without a connection the page is answered from a cache, which is filled as this is installed. The
// export writes the version and the files (skinml/export/page.py).
const VERSION = "VERSION";
const FILES = ["FILES"];

// Another page on the same host has another scope, and a cache of its own.
const OWN = `skinml ${self.registration.scope} `;
const CACHE = OWN + VERSION;

// Of the two runtimes the page tells which it does not take.
const without = new URL(self.location).searchParams.get("without");

// One that is newer waits until the page is closed: it would mix the files of two networks.
self.addEventListener("install", (event) => event.waitUntil(fill()));

async function fill() {
  const files = FILES.filter((file) => !(without && file.includes(without)));
  try {
    const cache = await caches.open(CACHE);
    // As the server has them now, whatever their dates: the browser may still hold files of another
    // export, and the network of one with the classes of another would give wrong answers.
    await cache.addAll(files.map((file) => new Request(file, {cache: "reload"})));
  } catch (error) {
    await caches.delete(CACHE);
    for (const page of await self.clients.matchAll({includeUncontrolled: true})) {
      page.postMessage({scope: self.registration.scope, failed: error.message});
    }
    throw error;
  }
}

self.addEventListener("activate", (event) => {
  event.waitUntil((async () => {
    for (const name of await caches.keys()) {
      if (name.startsWith(OWN) && name !== CACHE) await caches.delete(name);
    }
    await self.clients.claim();
  })());
});

self.addEventListener("fetch", (event) => {
  const own = new URL(event.request.url).origin === self.location.origin;
  if (event.request.method !== "GET" || !own) return event.respondWith(Response.error());
  event.respondWith((async () => {
    const cache = await caches.open(CACHE);
    const kept = await cache.match(event.request, {ignoreSearch: true, ignoreVary: true});
    return kept ?? fetch(event.request);
  })());
});
