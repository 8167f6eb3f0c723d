import { HoldfastError } from '../base/errors.ts'
import type { ShardName } from '../directory/topology.ts'
import type { TransactionEnvironment } from '../transaction/environment.ts'
import type { Resolved } from '../transaction/home-lanes.ts'
import type { Resolution } from '../transaction/resolver-protocol.ts'
import { Resolver } from '../transaction/resolver.ts'
import { toSilence } from '../transaction/sql-errors.ts'
import type { InDoubtView } from './operations-api.ts'

/** What an operator's `resolve` does, as it is told to whoever asked. */

/**
 * Settles what is in doubt on every shard. Throws `node_unavailable` (safe) when a shard is silent, once all others are through:
 * what became of their branches is in the message and, as views, under `resolved`.
 */
export async function resolveShards(environment: TransactionEnvironment): Promise<readonly InDoubtView[]> {
  const shards = [...environment.topology.current().shards.keys()]
  const ends = await Promise.allSettled(shards.map((shard) => resolveOn(environment, shard)))
  const resolved = ends.flatMap((end) => (end.status === 'fulfilled' ? end.value : []))
  const failures = ends.flatMap((end) => (end.status === 'rejected' ? [end.reason as unknown] : []))
  const [first] = failures
  if (first === undefined) return resolved
  const defect = failures.find((failure) => !(failure instanceof HoldfastError))
  if (defect !== undefined) throw defect
  const whys = failures.map((failure) => (failure as HoldfastError).message)
  const told = resolved.map(({ gid, verdict }) => `${gid}: ${verdict}`)
  throw new HoldfastError('node_unavailable', [...whys, ...told].join('; '), {
    hint: 'run it again when all shards answer: what was settled elsewhere stays settled',
    detail: { resolved },
    cause: first,
  })
}

/** Settles what is in doubt on a shard whose clock was accepted. Throws `node_unavailable` (safe) when it is silent. */
export async function resolveAccepted(
  environment: TransactionEnvironment,
  shard: ShardName,
): Promise<readonly InDoubtView[]> {
  try {
    return await resolveOn(environment, shard)
  } catch (error) {
    if (!(error instanceof HoldfastError)) throw error
    throw new HoldfastError(error.code, error.message, {
      hint: 'what was accepted stands, and a resolver settles by it; run it again to be told of it',
      detail: error.detail,
      cause: error,
    })
  }
}

async function resolveOn(environment: TransactionEnvironment, shard: ShardName): Promise<readonly InDoubtView[]> {
  try {
    return (await new Resolver({ environment }).resolveAll(shard)).map(viewOf)
  } catch (error) {
    throw toSilence(error, shard, 'what is prepared there')
  }
}

function viewOf({ branch: { name, ...branch }, resolution }: Resolved): InDoubtView {
  return {
    ...name,
    ...branch,
    record: resolution.kind === 'settled' ? resolution.outcome : null,
    homeIsOpen: null,
    ...verdictOf(resolution),
  }
}

function verdictOf(resolution: Resolution): Pick<InDoubtView, 'verdict' | 'why'> {
  switch (resolution.kind) {
    case 'settled': {
      const verdict = resolution.outcome === 'COMMITTED' ? 'committed' : 'rolled back'
      return { verdict, why: `its home has the record ${resolution.outcome}` }
    }
    case 'left':
      return { verdict: 'left', why: resolution.why }
    case 'needs person':
      return { verdict: 'needs a person', why: resolution.why }
  }
}
