import { present } from '../../src/base/assert.ts'
import { isHoldfastError } from '../../src/base/errors.ts'
import type { ShardName, TransactionId } from '../../src/directory/topology.ts'
import { toHlc } from '../../src/hlc/hlc.ts'
import { Connection } from '../../src/postgres/connection.ts'
import { primaryOf, shardOf } from '../../src/transaction/environment.ts'
import { askOutcome } from '../../src/transaction/outcome.ts'
import { Resolver, resolverLimitsDefault } from '../../src/transaction/resolver.ts'
import { settleBranch } from '../../src/transaction/settlement.ts'
import { closeOnce } from '../support/close-once.ts'
import { eventually } from '../support/eventually.ts'
import type { Evidence, Found, Repeated } from './check.ts'
import type { Answer, Request } from './request.ts'
import { sendRequest } from './request.ts'
import type { Scene } from './scene.ts'
import { home, participant } from './stand.ts'

/** What is done once everything is healed: resolving, finding, asking, and all of it once more. */
const shards = [home.shard, participant.shard] as const
const atOnce = { ...resolverLimitsDefault, settleAfterMs: 0, abortAfterMs: 0 }

/** Settles what is prepared, without waiting for coordinators, until nothing is. */
export async function resolveAll(scene: Scene): Promise<void> {
  const { environment } = scene.observer.parts
  const resolver = new Resolver({ environment, limits: atOnce })
  await eventually(async () => {
    await environment.topology.refresh()
    for (const shard of shards) await resolver.resolveOnce(shard as ShardName).catch(() => undefined)
    return (await scene.fleet.prepared().catch(() => ['unreachable'])).length === 0
  }, 60_000)
}

/**
 * Until no transaction of a gateway is open on a primary: what was sent over a link that was cut arrives when it is healed,
 * also when its sender has given it up.
 */
export async function untilQuiet({ fleet }: Scene): Promise<void> {
  const open = `select from pg_stat_activity where application_name like 'gateway-%' and xact_start is not null
    and application_name not like '% service'`
  await eventually(async () => {
    const perShard = await Promise.all(shards.map((shard) => fleet.ask(shard, open)))
    return perShard.flat().length === 0
  }, 60_000)
}

/** `known`: ids under which the request ran, whatever became of them. */
export async function findAll({ fleet }: Scene, { name, isGlobal }: Request, known: readonly string[]): Promise<Found> {
  const count = async ({ shard, domain }: { readonly shard: string; readonly domain: string }) =>
    (await fleet.ask(shard, `select from public.${domain}_marks where name = $1`, [name])).length
  const commits = await fleet.ask<{ transactionId: string; commitTimestamp: string }>(
    home.shard,
    `select transaction_id as "transactionId", commit_timestamp::text as "commitTimestamp"
     from holdfast.commit_log where subject = $1 order by commit_timestamp`,
    [name],
  )
  const branches = await fleet.ask<{ transactionId: string; prepareTimestamp: string }>(
    participant.shard,
    `select transaction_id as "transactionId", prepare_timestamp::text as "prepareTimestamp"
     from holdfast.branch where subject = $1`,
    [name],
  )
  const ids = [...known, ...[...commits, ...branches].map(({ transactionId }) => transactionId)]
  return {
    homeRows: await count(home),
    participantRows: isGlobal ? await count(participant) : null,
    commits,
    records: await fleet.ask<Found['records'][number]>(
      home.shard,
      `select transaction_id as "transactionId", outcome from holdfast.transaction_record
       where transaction_id = any($1::uuid[])`,
      [ids],
    ),
    branches,
    decisions: await fleet.ask<Found['decisions'][number]>(
      participant.shard,
      `select transaction_id as "transactionId", outcome, commit_timestamp::text as "commitTimestamp"
       from holdfast.decision where transaction_id = any($1::uuid[])`,
      [ids],
    ),
    prepared: await fleet.prepared(),
  }
}

/** Every name at the participant. */
export async function marksThere({ fleet }: Scene): Promise<string[]> {
  const rows = await fleet.ask<{ name: string }>(
    participant.shard,
    `select name from public.${participant.domain}_marks order by name`,
  )
  return rows.map(({ name }) => name)
}

/** What the fleet says of each id, and says again. */
export function askTwice(scene: Scene, ids: readonly string[]) {
  return Promise.all(
    ids.map(async (transactionId) => ({
      transactionId,
      answers: [await ask(scene, transactionId), await ask(scene, transactionId)],
    })),
  )
}

async function ask({ observer }: Scene, transactionId: string): Promise<string> {
  try {
    const { outcome } = await observer.transaction(transactionId)
    // Both mean that nothing was written; the journal of attempts may come late.
    return outcome === 'committed' || outcome === 'in_doubt' ? outcome : 'aborted'
  } catch (error) {
    if (isHoldfastError(error, 'unknown_transaction')) return 'aborted'
    throw error
  }
}

/** Every step once more: deciding, settling, resolving, closing, and the request itself, which is sent twice. */
export async function repeatEverything(
  scene: Scene,
  request: Request,
  found: Found,
  known: readonly string[],
): Promise<Pick<Evidence, 'repeated' | 'foundAgain' | 'refusedAgain'>> {
  const refusedAgain: string[] = []
  for (const commit of found.commits) refusedAgain.push(...(await settleAgain(scene, request, commit)))
  await resolveAll(scene)
  await closeAgain(scene)
  const repeated = [await sendUntilCommitted(scene, request), await sendUntilCommitted(scene, request)]
  await resolveAll(scene)
  return { repeated: repeated.map(toRepeated), foundAgain: await findAll(scene, request, known), refusedAgain }
}

/** What did not go as it went the first time. */
async function settleAgain(
  { observer }: Scene,
  { isGlobal }: Request,
  { transactionId: id, commitTimestamp }: Found['commits'][number],
): Promise<string[]> {
  const { environment } = observer.parts
  const transactionId = id as TransactionId
  const { epoch, primary } = shardOf(environment, home.shard as ShardName)
  const branch = { home: home.shard as ShardName, transactionId, participant: participant.shard as ShardName }
  const participants = isGlobal ? [branch.participant] : []
  const told = await askOutcome(environment, {
    transactionId,
    home: branch.home,
    node: primary.id,
    epoch,
    participants,
    serverProcessId: undefined,
  })
  if (told.kind !== 'committed') return [`asked once more, ${id} is ${told.kind}`]
  if (!isGlobal) return []
  const decision = { outcome: 'COMMITTED', commitTimestamp: toHlc(BigInt(commitTimestamp)) } as const
  const settlement = await settleBranch(environment, { branch, homeEpoch: epoch, decision })
  return settlement.kind === 'settled' ? [] : [`settled once more, ${id} is ${settlement.kind}`]
}

/** Beside the closer that is elected. */
async function closeAgain({ observer }: Scene): Promise<void> {
  const { environment } = observer.parts
  for (const shard of shards) {
    const connection = await Connection.connect(primaryOf(environment, shard as ShardName).target, 5_000)
    try {
      await closeOnce(connection, shard)
    } finally {
      connection.release()
    }
  }
}

/** A gateway that was cut off may need a moment to see that it is not any more. */
export async function sendUntilCommitted(scene: Scene, request: Request): Promise<Answer> {
  let last: Answer | undefined
  await eventually(async () => {
    last = await sendRequest(await scene.gateway(), request)
    return last.kind === 'committed'
  }, 60_000).catch(() => {
    throw new Error(`sent again, ${request.name} is told ${JSON.stringify(last)}`)
  })
  return present(last, 'it was sent')
}

function toRepeated({ transactionId, replayed }: Answer): Repeated {
  return { transactionId: transactionId ?? '', replayed }
}

/** The shards whose closed timestamp does not pass what was committed. */
export async function notClosedPast({ fleet }: Scene, { commits }: Found): Promise<string[]> {
  const last = commits.at(-1)?.commitTimestamp ?? '0'
  const late: string[] = []
  for (const shard of shards) {
    await eventually(async () => {
      const rows = await fleet.ask(shard, 'select from holdfast.closed where closed_timestamp >= $1::bigint', [last])
      return rows.length > 0
    }, 30_000).catch(() => late.push(shard))
  }
  return late
}
