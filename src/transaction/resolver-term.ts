import type { ShardName } from '../directory/topology.ts'
import type { TransactionEnvironment } from './environment.ts'
import type { Resolved } from './home-lanes.ts'
import { HomeLanes } from './home-lanes.ts'
import type { ToldBranches } from './in-doubt-alarm.ts'
import { dueAlarms } from './in-doubt-alarm.ts'
import type { InDoubtBranch } from './in-doubt.ts'
import { listInDoubt } from './in-doubt.ts'
import type { ResolverLimits } from './resolver.ts'

/** What one resolver knows of one shard while it is elected: pauses of homes, and of what somebody was told. */
export class ResolverTerm {
  readonly #environment: TransactionEnvironment
  readonly #limits: ResolverLimits
  readonly #shard: ShardName
  readonly #onStuck: (branch: InDoubtBranch, why: string) => void
  readonly #lanes: HomeLanes
  #told: ToldBranches = new Map()
  #firstSeenAtMs: ReadonlyMap<string, number> = new Map()

  constructor(
    environment: TransactionEnvironment,
    limits: ResolverLimits,
    shard: ShardName,
    onStuck: (branch: InDoubtBranch, why: string) => void,
  ) {
    this.#environment = environment
    this.#limits = limits
    this.#shard = shard
    this.#onStuck = onStuck
    this.#lanes = new HomeLanes(environment, limits)
  }

  /**
   * Lists what is prepared and takes it up, except for what is `young`; `ended` when all that has come to an end. Throws when
   * the shard is silent.
   */
  async scan(): Promise<{ readonly young: readonly InDoubtBranch[]; readonly ended: Promise<readonly Resolved[]> }> {
    const { metrics, onStep } = this.#environment
    const shard = this.#shard
    await onStep('resolver scan', { shard })
    const all = this.#aged(await listInDoubt(this.#environment, shard))
    const branches = all.filter(({ ageMs }) => ageMs >= this.#limits.settleAfterMs)
    metrics.gauge('resolver_queue_depth', branches.length, { shard })
    metrics.gauge('resolver_silent_homes', this.#lanes.silentHomes, { shard })
    metrics.gauge('in_doubt_oldest_age_ms', Math.max(0, ...all.map(({ ageMs }) => ageMs)), { shard })
    return { young: all.filter((branch) => !branches.includes(branch)), ended: this.#takeUp(branches) }
  }

  /** The age of a branch is by its server's wall. One that was set back would leave it to its coordinator for as long. */
  #aged(branches: readonly InDoubtBranch[]): InDoubtBranch[] {
    const now = this.#environment.clock.monotonicMs()
    const before = this.#firstSeenAtMs
    this.#firstSeenAtMs = new Map(branches.map(({ gid }) => [gid, before.get(gid) ?? now]))
    return branches.map((branch) => ({
      ...branch,
      ageMs: Math.max(branch.ageMs, now - (before.get(branch.gid) ?? now)),
    }))
  }

  /** Waits for what is under way. */
  async end(): Promise<void> {
    await this.#lanes.idle()
  }

  async #takeUp(branches: readonly InDoubtBranch[]): Promise<readonly Resolved[]> {
    const resolved = await this.#lanes.take(branches)
    this.#tell(branches, resolved)
    return resolved
  }

  #tell(branches: readonly InDoubtBranch[], resolved: readonly Resolved[]): void {
    const left = new Map(
      resolved.flatMap(({ branch, resolution }) =>
        resolution.kind === 'settled' ? [] : [[branch.gid, { branch, resolution }] as const],
      ),
    )
    const present = branches.map(({ gid, ageMs }) => {
      const of = left.get(gid)
      return { gid, left: of && { ageMs, needsPerson: of.resolution.kind === 'needs person' } }
    })
    const { told, due } = dueAlarms(this.#told, present, this.#environment.clock.monotonicMs(), this.#limits.alarm)
    this.#told = told
    for (const gid of due) {
      const of = left.get(gid)
      if (of === undefined) continue
      const { branch, resolution } = of
      this.#environment.metrics.count('in_doubt_alarms_total', { shard: this.#shard, left: resolution.kind })
      const since = `in doubt on ${this.#shard} for ${Math.round(branch.ageMs)} ms, home ${branch.name.home}`
      this.#onStuck(branch, `${since}: ${resolution.why}`)
    }
  }
}
