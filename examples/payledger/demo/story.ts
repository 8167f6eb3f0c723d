import { HoldfastError } from 'holdfast'
import type { ErrorCode } from 'holdfast'

/** How the day is told: step by step, in sentences, with claims that this run can disprove. */

export interface StepReport {
  readonly name: string
  /** True when the step came to its end and every claim held. */
  readonly ok: boolean
  readonly ms: number
  /** What happened, in plain words, with the numbers of this run. */
  readonly detail: string
  readonly checks: readonly Check[]
}

export interface Check {
  readonly claim: string
  readonly held: boolean
}

/** Where the story is shown. */
export interface Display {
  begin(title: string): void
  /** What goes on inside a long step. */
  progress(text: string): void
  end(title: string, report: StepReport): void
}

/** What a step tells. */
export interface Telling {
  /** One sentence of what happened. */
  say(sentence: string): void
  /** A false claim fails the step; the day goes on, since what follows may say why. */
  check(claim: string, held: boolean): void
  /** Runs what has to fail with this code, and gives its error; a failed claim when it ends otherwise. */
  refused(code: ErrorCode | readonly ErrorCode[], claim: string, run: () => Promise<unknown>): Promise<HoldfastError>
  progress(text: string): void
}

/** A step that cannot go on; what comes after it cannot be played. */
export class StoryBroken extends Error {}

export class Story {
  readonly steps: StepReport[] = []
  readonly #display: Display
  readonly #interrupted: AbortSignal

  constructor(display: Display, interrupted: AbortSignal) {
    this.#display = display
    this.#interrupted = interrupted
  }

  get ok(): boolean {
    return this.steps.length > 0 && this.steps.every((step) => step.ok)
  }

  /** Plays one step and gives its result. Throws `StoryBroken` when the step throws, and once it was interrupted. */
  async step<T>(name: string, title: string, play: (tell: Telling) => Promise<T>): Promise<T> {
    if (this.#interrupted.aborted) throw new StoryBroken('interrupted')
    return this.last(name, title, play)
  }

  /** The same, also after an interruption: what has to be cleared away is. */
  async last<T>(name: string, title: string, play: (tell: Telling) => Promise<T>): Promise<T> {
    const sentences: string[] = []
    const checks: Check[] = []
    const started = performance.now()
    const end = (completed: boolean) => {
      const report: StepReport = {
        name,
        ok: completed && checks.every(({ held }) => held),
        ms: Math.round(performance.now() - started),
        detail: sentences.join(' '),
        checks,
      }
      this.steps.push(report)
      this.#display.end(title, report)
    }
    this.#display.begin(title)
    try {
      const result = await play(telling(sentences, checks, (text) => this.#display.progress(text)))
      end(true)
      return result
    } catch (error) {
      if (this.#interrupted.aborted) sentences.push('Interrupted.')
      else sentences.push(`The step broke off: ${describe(error)}`)
      end(false)
      throw new StoryBroken(name, { cause: error })
    }
  }
}

function telling(sentences: string[], checks: Check[], progress: (text: string) => void): Telling {
  const check = (claim: string, held: boolean) => void checks.push({ claim, held })
  return {
    say: (sentence) => void sentences.push(sentence),
    check,
    progress,
    async refused(code, claim, run) {
      const expected: readonly ErrorCode[] = typeof code === 'string' ? [code] : code
      try {
        await run()
      } catch (error) {
        if (!(error instanceof HoldfastError)) throw error
        check(`${claim} (${expected.join(' or ')}, it was ${error.code})`, expected.includes(error.code))
        return error
      }
      check(`${claim} (${expected.join(' or ')}, it was not refused)`, false)
      throw new Error(`${claim}: it was not refused`)
    },
  }
}

function describe(error: unknown): string {
  if (error instanceof HoldfastError) {
    return `${error.code}: ${error.message}${error.hint === undefined ? '' : ` (${error.hint})`}`
  }
  return error instanceof Error ? (error.stack ?? error.message) : String(error)
}
