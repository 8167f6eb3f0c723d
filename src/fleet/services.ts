import { setMaxListeners } from 'node:events'
import type { Clock } from '../base/clock.ts'

/** Work that goes on in the background of a gateway until it closes. It survives lost servers by itself. */
export interface Service {
  readonly name: string
  run(signal: AbortSignal): Promise<void>
}

/** A service that ended although nobody stopped it: a defect, or a check that failed and needs a person. */
export type OnServiceFailure = (name: string, error: unknown) => void

const restartAfterMs = 1_000

/**
 * The services of one process. One that fails is reported and begun again after a while, so that a shard that was
 * repaired is served again without a restart of the gateway.
 */
export class Services {
  readonly #stop = new AbortController()
  readonly #running: Promise<void>[] = []
  readonly #clock: Clock
  readonly #onFailure: OnServiceFailure

  constructor(clock: Clock, onFailure: OnServiceFailure) {
    this.#clock = clock
    this.#onFailure = onFailure
    // As many listen to its end as there are services.
    setMaxListeners(0, this.#stop.signal)
  }

  get signal(): AbortSignal {
    return this.#stop.signal
  }

  start(service: Service): void {
    this.#running.push(this.#keepRunning(service))
  }

  async stop(): Promise<void> {
    this.#stop.abort()
    await Promise.all(this.#running)
  }

  async #keepRunning(service: Service): Promise<void> {
    const { signal } = this.#stop
    while (!signal.aborted) {
      try {
        await service.run(signal)
      } catch (error) {
        if (!signal.aborted) this.#onFailure(service.name, error)
      }
      await this.#clock.sleep(restartAfterMs, signal).catch(() => undefined)
    }
  }
}
