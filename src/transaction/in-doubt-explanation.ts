import { assert } from '../base/assert.ts'
import { HoldfastError } from '../base/errors.ts'
import type { TransactionEnvironment } from './environment.ts'
import { shardOf } from './environment.ts'
import type { BranchName } from './gid.ts'
import type { InDoubtBranch } from './in-doubt.ts'
import { askHome, describe, listInDoubt } from './in-doubt.ts'
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

/** What is in doubt on every shard and what would become of it; changes nothing. Throws when a participant is silent. */
export async function explainInDoubt(
  environment: TransactionEnvironment,
  abortAfterMs: number,
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
  return Promise.all(branches.flat().map((branch) => explain(environment, branch, abortAfterMs)))
}

async function explain(
  environment: TransactionEnvironment,
  branch: InDoubtBranch,
  abortAfterMs: number,
): Promise<InDoubtExplanation> {
  const { gid, name, ageMs } = branch
  const about = { ...name, gid, ageMs }
  try {
    const { state } = shardOf(environment, name.home)
    if (state !== 'open') {
      return { ...about, record: null, homeIsOpen: null, verdict: 'wait', why: `home ${name.home} is ${state}` }
    }
    return { ...about, ...explainHeard(branch, await askHome(environment, name), abortAfterMs) }
  } catch (error) {
    const why = `home ${name.home} does not tell: ${describe(error)}`
    return { ...about, record: null, homeIsOpen: null, verdict: 'unknown', why }
  }
}

/** What the resolver's own step function would do next with what home has told. */
export function explainHeard(
  { name: { home }, ageMs }: Pick<InDoubtBranch, 'name' | 'ageMs'>,
  heard: Extract<ResolverEvent, { kind: 'record' | 'no record' }>,
  abortAfterMs: number,
): Pick<InDoubtExplanation, 'record' | 'homeIsOpen' | 'verdict' | 'why'> {
  const { state } = stepResolver(beginResolving(ageMs >= abortAfterMs).state, heard)
  if (heard.kind === 'record') {
    const { outcome } = heard.decision
    const why = `${home} has the record ${outcome}, which counts once a barrier has passed there`
    return { record: outcome, homeIsOpen: null, verdict: outcome === 'COMMITTED' ? 'commit' : 'roll back', why }
  }
  const { homeIsOpen } = heard
  if (state.kind === 'presuming') {
    const since = homeIsOpen
      ? `its coordinator holds ${home} open, for more than ${abortAfterMs} ms`
      : `its part at ${home} has ended`
    const why = `no record, and ${since}: presumed aborted, unless ${home} records it first`
    return { record: null, homeIsOpen, verdict: 'roll back', why }
  }
  assert(state.kind === 'done' && state.resolution.kind !== 'settled', 'without a record it presumes, or stops')
  const { kind, why } = state.resolution
  return { record: null, homeIsOpen, verdict: kind === 'left' ? 'wait' : 'needs a person', why }
}
