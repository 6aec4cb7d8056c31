// What the page asks of the service.

import { $, remember, sentence } from "./dom.js";
import { t } from "./texts.js";

export const collectionPath = (name) => `v1/collections/${encodeURIComponent(name)}`;

/** An item's path. Browsers resolve `..` between slashes: those of such an id are quoted, too. */
export function itemPath(name, id) {
  const parts = id.split("/");
  const slash = parts.includes(".") || parts.includes("..") ? "%2F" : "/";
  return `${collectionPath(name)}/items/${parts.map(encodeURIComponent).join(slash)}`;
}

/** The answer to a request. Throws an Error that says what the service says. */
export async function request(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Error(t("unreachable"));
  }
  if (answer.status === 401) {
    await signIn();
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

/** Ask for a key, once for all who wait for it. From then on a cookie stands for it, also with pictures and films. */
export function signIn() {
  keyAsked ??= new Promise((resolve) => {
    $("key").addEventListener(
      "close",
      async () => {
        const form = new URLSearchParams({ key: $("key-value").value });
        $("key-value").value = "";
        await fetch("sign-in", { method: "POST", body: form, redirect: "manual" }).catch(() => null);
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

/** End the session, and show where one can begin another. */
export async function signOut() {
  await fetch("sign-out", { method: "POST", redirect: "manual" });
  remember("signed-in", false);
  location.assign("sign-in");
}

/** Have the browser save something under a name. */
export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
