/** Ctrl-C in the middle of a bench: what is measured is let go, and the servers below it are stopped in order. */

export class Interrupted extends Error {}

const interrupted = new AbortController()

/** From now on. A second signal changes nothing: servers that are not stopped in order would stay behind. */
export function heedSignals(): void {
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => interrupted.abort(new Interrupted(`asked by ${signal}: the servers are stopped`)))
  }
}

/** Rejects with `Interrupted` once a signal came; the work then fails by itself, as its servers are gone. */
export function unlessInterrupted<T>(work: Promise<T>): Promise<T> {
  const { signal } = interrupted
  const interruption = new Promise<never>((_, reject) => {
    const stop = () => reject(signal.reason as Interrupted)
    if (signal.aborted) stop()
    else signal.addEventListener('abort', stop, { once: true })
  })
  return Promise.race([work, interruption])
}
