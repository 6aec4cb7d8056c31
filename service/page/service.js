// What the page asks of the service.

import { $, sentence } from "./dom.js";
import { t } from "./texts.js";

export const key = () => sessionStorage.getItem("key");
export const headers = () => (key() ? { Authorization: `Bearer ${key()}` } : {});

export const collectionPath = (name) => `v1/collections/${encodeURIComponent(name)}`;
export const itemPath = (name, id) => `${collectionPath(name)}/items/${id.split("/").map(encodeURIComponent).join("/")}`;

/** The answer to a request. Throws an Error that says what the service says. */
export async function request(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: { ...headers(), ...options.headers } });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Error(t("unreachable"));
  }
  if (answer.status === 401) {
    await askForKey();
    return request(path, options);
  }
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => ({}));
  const failure = new Error(sentence(body.error?.message ?? answer.statusText));
  failure.status = answer.status;
  failure.code = body.error?.code;
  throw failure;
}

/** The JSON of an answer. Throws as `request` does. */
export async function ask(path, options = {}) {
  const answer = await request(path, options);
  return answer.status === 204 ? null : answer.json().catch(() => ({}));
}

/** Send JSON, and get some. */
export const send = (method, path, body) =>
  ask(path, { method, body: JSON.stringify(body), headers: { "content-type": "application/json" } });

let keyAsked = null;

function askForKey() {
  keyAsked ??= new Promise((resolve) => {
    $("key").addEventListener(
      "close",
      () => {
        sessionStorage.setItem("key", $("key-value").value);
        keyAsked = null;
        resolve();
      },
      { once: true },
    );
    $("sign-in").href = `sign-in?next=${encodeURIComponent(location.search)}`;
    $("key").showModal();
  });
  return keyAsked;
}

/** Where an item's media lie, or another part of it; behind a key by a link that opens it for a while, as players send none. */
export async function addressOf(path, part = "media") {
  return key() ? (await ask(`${path}/link`, { method: "POST" }))[part] : `${path}/${part}`;
}

/** What lies there as an address of this page's own. Throws an Error that says what the service says. */
export async function copyOf(path) {
  const answer = await fetch(path, { headers: headers() }).catch(() => null);
  if (!answer?.ok) throw new Error(answer ? t("loading_failed", { status: answer.status }) : t("unreachable"));
  return URL.createObjectURL(await answer.blob());
}

/** Have the browser save something under a name. */
export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
