import { present } from '../base/assert.ts'
import { randomBelow } from '../base/random.ts'
import type { ShardName } from '../directory/topology.ts'
import type { TransactionEnvironment } from './environment.ts'
import type { BackoffLimits, HomeBackoff } from './home-backoff.ts'
import { afterAnswer, afterSilence, pauseBeforeMs } from './home-backoff.ts'
import type { InDoubtBranch } from './in-doubt.ts'
import { resolveBranch } from './in-doubt.ts'
import type { Resolution } from './resolver-protocol.ts'

export interface Resolved {
  readonly branch: InDoubtBranch
  readonly resolution: Resolution
}

export interface LaneLimits {
  /** A branch without a record for this long is presumed aborted, although its coordinator holds home open. */
  readonly abortAfterMs: number
  /** Of one home. */
  readonly resolvedAtOnceMax: number
  /** Of one home at a time; the rest comes with the next scan. */
  readonly queuedMax: number
  readonly backoff: BackoffLimits
}

/**
 * The branches of one shard in a lane for each of their homes, so that a home that is silent holds up nobody but its own.
 * The first that finds a home silent ends the lane, and the home has its pause.
 */
export class HomeLanes {
  readonly #environment: TransactionEnvironment
  readonly #limits: LaneLimits
  readonly #busy = new Map<ShardName, Promise<unknown>>()
  #backoff: HomeBackoff = new Map()

  constructor(environment: TransactionEnvironment, limits: LaneLimits) {
    this.#environment = environment
    this.#limits = limits
  }

  get silentHomes(): number {
    return this.#backoff.size
  }

  /** Takes up what is not under way. Resolves, and never rejects, once all that was taken up here has come to an end. */
  async take(branches: readonly InDoubtBranch[]): Promise<Resolved[]> {
    const homes = new Map<ShardName, InDoubtBranch[]>()
    for (const branch of branches) {
      const { home } = branch.name
      homes.set(home, [...(homes.get(home) ?? []), branch])
    }
    const lanes = [...homes].map(([home, all]) => {
      if (this.#busy.has(home)) return Promise.resolve([])
      const lane = this.#run(home, all.slice(0, this.#limits.queuedMax))
      this.#busy.set(home, lane)
      return lane.finally(() => this.#busy.delete(home))
    })
    return (await Promise.all(lanes)).flat()
  }

  async idle(): Promise<void> {
    await Promise.all(this.#busy.values())
  }

  async #run(home: ShardName, branches: readonly InDoubtBranch[]): Promise<Resolved[]> {
    const { clock } = this.#environment
    const pauseMs = pauseBeforeMs(this.#backoff, home, clock.monotonicMs())
    if (pauseMs > 0) {
      const why = `home ${home} did not answer; it is asked again in ${Math.ceil(pauseMs)} ms`
      return branches.map((branch) => leave(branch, why))
    }
    const resolved: Resolved[] = []
    let silence: string | undefined
    const queue = branches.values()
    const work = async () => {
      for (const branch of queue) {
        const resolution = await this.#resolve(branch)
        resolved.push({ branch, resolution })
        if (resolution.kind === 'left' && resolution.failed === 'home') silence ??= resolution.why
        if (silence !== undefined) return
      }
    }
    await Promise.all(Array.from({ length: this.#limits.resolvedAtOnceMax }, work))
    this.#backoff =
      silence === undefined
        ? afterAnswer(this.#backoff, home)
        : afterSilence(this.#backoff, home, clock.monotonicMs(), randomBelow(1_000) / 1_000, this.#limits.backoff)
    const rest = [...queue]
    return [...resolved, ...rest.map((branch) => leave(branch, present(silence, 'a silence ended the lane')))]
  }

  async #resolve(branch: InDoubtBranch): Promise<Resolution> {
    const resolution = await resolveBranch(this.#environment, branch, this.#limits.abortAfterMs)
    if (resolution.kind === 'settled') {
      const labels = { shard: branch.name.participant, outcome: resolution.outcome }
      this.#environment.metrics.count('resolver_settled_total', labels)
    }
    return resolution
  }
}

function leave(branch: InDoubtBranch, why: string): Resolved {
  return { branch, resolution: { kind: 'left', why, failed: 'home' } }
}
