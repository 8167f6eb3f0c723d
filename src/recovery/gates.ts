import type { Clock } from '../base/clock.ts'
import type { Progress } from '../base/progress.ts'
import type { Gate } from './drill-report.ts'

/**
 * Times the gates while a restore or a cutover passes them. Work for one gate may come in parts: what follows the promotion because
 * PostgreSQL takes no write before it still counts as replay.
 */
export class Gates<Name extends string> {
  readonly #names: readonly Name[]
  readonly #clock: Clock
  readonly #progress: Progress
  readonly #startedMs: number
  readonly #parts = new Map<Name, { durationMs: number; ok: boolean; details: string[] }>()

  constructor(names: readonly Name[], clock: Clock, progress: Progress) {
    this.#names = names
    this.#clock = clock
    this.#progress = progress
    this.#startedMs = clock.monotonicMs()
  }

  async pass<T>(name: Name, work: () => Promise<{ readonly value: T; readonly detail: string }>): Promise<T> {
    this.#progress({ step: name, fraction: this.#names.indexOf(name) / this.#names.length })
    const part = this.#parts.get(name) ?? { durationMs: 0, ok: true, details: [] }
    this.#parts.set(name, part)
    const startedMs = this.#clock.monotonicMs()
    try {
      const { value, detail } = await work()
      part.details.push(detail)
      this.#progress({ step: name, detail })
      return value
    } catch (error) {
      part.ok = false
      part.details.push(error instanceof Error ? error.message : String(error))
      throw error
    } finally {
      part.durationMs += this.#clock.monotonicMs() - startedMs
    }
  }

  report(): Gate<Name>[] {
    return this.#names.flatMap((name) => {
      const part = this.#parts.get(name)
      if (part === undefined) return []
      return [{ name, ok: part.ok, durationMs: Math.round(part.durationMs), detail: part.details.join('; ') }]
    })
  }

  elapsedMs(): number {
    return Math.round(this.#clock.monotonicMs() - this.#startedMs)
  }
}
