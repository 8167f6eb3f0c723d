import { assert } from '../base/assert.ts'
import { HoldfastError } from '../base/errors.ts'
import { examineDecision } from './clock-acceptance.ts'
import { explainRefusal } from './clock-refusal.ts'
import type { TransactionEnvironment } from './environment.ts'
import { shardOf } from './environment.ts'
import type { BranchName } from './gid.ts'
import type { InDoubtBranch } from './in-doubt.ts'
import { askHome, describe, listInDoubt } from './in-doubt.ts'
import type { ResolverLimits } from './resolver.ts'
import type { ResolverEvent } from './resolver-protocol.ts'
import { beginResolving, stepResolver } from './resolver-protocol.ts'

export interface InDoubtExplanation extends BranchName {
  readonly gid: string
  readonly ageMs: number
  /** At home; null when there is none, or home does not tell. */
  readonly record: 'COMMITTED' | 'ABORTED' | null
  /** Whether home's part of the transaction is open, as long as there is no record; null when home does not tell. */
  readonly homeIsOpen: boolean | null
  /** What a resolver would do now. */
  readonly verdict: 'commit' | 'roll back' | 'wait' | 'needs a person' | 'unknown'
  readonly why: string
}

/** By what age a resolver goes. */
export type InDoubtAges = Pick<ResolverLimits, 'settleAfterMs' | 'abortAfterMs'>

/**
 * What is in doubt on every shard and what would become of it; changes nothing. Ages are by the walls of the servers: a
 * resolver that runs also goes by how long it has seen a branch. Throws when a participant is silent.
 */
export async function explainInDoubt(
  environment: TransactionEnvironment,
  ages: InDoubtAges,
): Promise<InDoubtExplanation[]> {
  const shards = [...environment.topology.current().shards.keys()]
  const branches = await Promise.all(
    shards.map(async (shard) => {
      try {
        return await listInDoubt(environment, shard)
      } catch (error) {
        throw new HoldfastError('node_unavailable', `${shard} does not tell what is prepared there`, {
          detail: { shard },
          cause: error,
        })
      }
    }),
  )
  return Promise.all(branches.flat().map((branch) => explain(environment, branch, ages)))
}

async function explain(
  environment: TransactionEnvironment,
  branch: InDoubtBranch,
  ages: InDoubtAges,
): Promise<InDoubtExplanation> {
  const { gid, name, ageMs } = branch
  const about = { ...name, gid, ageMs }
  try {
    const { state } = shardOf(environment, name.home)
    if (state !== 'open') {
      return { ...about, record: null, homeIsOpen: null, verdict: 'wait', why: `home ${name.home} is ${state}` }
    }
    const heard = await askHome(environment, name)
    const refused = heard.kind === 'record' ? await examineDecision(environment, branch, heard.decision) : undefined
    if (refused === undefined) return { ...about, ...explainHeard(branch, heard, ages) }
    const why = explainRefusal(name, refused.refusal, refused.remedy)
    return { ...about, record: 'COMMITTED', homeIsOpen: null, verdict: 'needs a person', why }
  } catch (error) {
    const why = `home ${name.home} does not tell: ${describe(error)}`
    return { ...about, record: null, homeIsOpen: null, verdict: 'unknown', why }
  }
}

/** What the resolver's own step function would do next with what home has told. */
export function explainHeard(
  { name: { home, participant }, ageMs }: Pick<InDoubtBranch, 'name' | 'ageMs'>,
  heard: Extract<ResolverEvent, { kind: 'record' | 'no record' }>,
  { settleAfterMs, abortAfterMs }: InDoubtAges,
): Pick<InDoubtExplanation, 'record' | 'homeIsOpen' | 'verdict' | 'why'> {
  const record = heard.kind === 'record' ? heard.decision.outcome : null
  const homeIsOpen = heard.kind === 'record' ? null : heard.homeIsOpen
  const until = (ms: number) =>
    `until it is ${ms} ms old by the wall of ${participant}, or a resolver has seen it for as long`
  const setBack = ageMs < 0 ? '. That wall was set back since it was prepared' : ''
  if (ageMs < settleAfterMs) {
    const what = record === null ? 'no record' : `${home} has the record ${record}`
    const why = `${what}; left to its coordinator ${until(settleAfterMs)}${setBack}`
    return { record, homeIsOpen, verdict: 'wait', why }
  }
  if (record !== null) {
    const why = `${home} has the record ${record}, which counts once a barrier has passed there`
    return { record, homeIsOpen, verdict: record === 'COMMITTED' ? 'commit' : 'roll back', why }
  }
  const { state } = stepResolver(beginResolving(ageMs >= abortAfterMs).state, heard)
  if (state.kind === 'presuming') {
    const since = homeIsOpen
      ? `${home} is held open, by a coordinator that let the branch become ${abortAfterMs} ms old by the wall of ${participant}`
      : `its part at ${home} has ended`
    const why = `no record, and ${since}: presumed aborted, unless ${home} records it first`
    return { record, homeIsOpen, verdict: 'roll back', why }
  }
  assert(state.kind === 'done' && state.resolution.kind !== 'settled', 'without a record it presumes, or stops')
  const { kind, why } = state.resolution
  if (kind === 'needs person') return { record, homeIsOpen, verdict: 'needs a person', why }
  const held = `no record, and its coordinator holds ${home} open; left to it ${until(abortAfterMs)}`
  return { record, homeIsOpen, verdict: 'wait', why: held }
}
