/** Requests to the server. Addresses are relative to the page, which has the secret in its own. */

/** An answer that is an error, with a sentence for people. */
export class ApiError extends Error {
  /** @param {number} status @param {string} message @param {string | null} hint */
  constructor(status, message, hint) {
    super(message);
    this.status = status;
    this.hint = hint;
  }
}

/**
 * Send a request and return the answer.
 * @param {string} path
 * @param {RequestInit} [options]
 * @returns {Promise<Response>}
 */
async function send(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error instanceof DOMException && error.name === 'AbortError') throw error;
    throw new ApiError(0, 'The server does not answer', 'Is stemsplit still running?');
  }
  if (answer.ok) return answer;
  const content = await answer.json().catch(() => null);
  throw new ApiError(
    answer.status,
    content?.error?.message ?? answer.statusText,
    content?.error?.hint ?? null,
  );
}

/** Return the JSON at a path. @param {string} path @param {AbortSignal} [signal] */
export const get = async (path, signal) => (await send(path, { signal })).json();

/** Return the bytes at a path. @param {string} path @param {AbortSignal} [signal] */
export const bytes = async (path, signal) => (await send(path, { signal })).arrayBuffer();

/** Send JSON, and return the answer's. @param {string} path @param {object} body */
export async function post(path, body) {
  const headers = { 'Content-Type': 'application/json' };
  return (await send(path, { method: 'POST', headers, body: JSON.stringify(body) })).json();
}

/** Delete what is at a path. @param {string} path */
export const remove = (path) => send(path, { method: 'DELETE' });

/**
 * Send a file as it is, and return the server's upload. fetch tells no progress of uploads, so this is XHR.
 * @param {File} file
 * @param {(share: number) => void} told called with the share that is sent, 0 to 1
 * @returns {Promise<{id: string, name: string}>}
 */
export function upload(file, told) {
  // encodeURIComponent throws at lone surrogates, which a name of Windows may have
  const name = encodeURIComponent(file.name.toWellFormed?.() ?? file.name);
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open('POST', `api/uploads?name=${name}`);
    request.responseType = 'json';
    request.upload.addEventListener('progress', (event) => told(event.loaded / Math.max(1, event.total)));
    request.addEventListener('load', () => {
      const error = request.response?.error;
      if (request.status === 201) resolve(request.response);
      else reject(new ApiError(request.status, error?.message ?? 'The upload failed', error?.hint ?? null));
    });
    request.addEventListener('error', () => reject(new ApiError(0, 'The upload was cut short', null)));
    request.send(file);
  });
}

/** Have the browser save what is at a path. @param {string} path */
export function save(path) {
  const link = document.createElement('a');
  link.href = path;
  link.download = '';
  link.click();
}
