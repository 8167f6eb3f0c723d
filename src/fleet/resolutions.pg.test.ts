import { afterEach, beforeEach, expect, test } from 'vitest'
import { approve, gatewayOf, newRun, request } from '../../test/support/approval.ts'
import { DatabaseShards, home, scratch, treasury } from '../../test/support/database-shards.ts'
import { systemClock } from '../base/clock.ts'
import { newTimeOrderedUuid } from '../base/random.ts'
import type { ShardName, TransactionId } from '../directory/topology.ts'
import { readTimeline } from '../evidence/timeline-reader.ts'
import { Connection } from '../postgres/connection.ts'
import { formatGid } from '../transaction/gid.ts'
import { transact } from '../transaction/transaction.ts'
import { resolveAccepted, resolveShards } from './resolutions.ts'

/** What an operator is told while the primary of one shard is away. */

let shards: DatabaseShards

beforeEach(async () => {
  shards = await DatabaseShards.open()
})

afterEach(() => shards.close())

/** A branch whose home has no record of it, and whose coordinator is gone. */
async function orphan(participant: ShardName): Promise<string> {
  const transactionId = newTimeOrderedUuid() as TransactionId
  const gid = formatGid('test', { home, transactionId, participant })
  const connection = await Connection.connect(shards.target(participant, 'holdfast_gateway'), 10_000)
  await connection.query('begin')
  await connection.query(`prepare transaction '${gid}'`)
  connection.release()
  return gid
}

function away(shard: ShardName): void {
  const { primary } = shards.shard(shard)
  shards.replaceShard(shard, { primary: { ...primary, host: '127.0.0.1', port: 1 } })
}

test('a shard that is silent is told of once the branches of the others are settled, and with what became of them', async () => {
  const gid = await orphan(treasury)
  away(scratch)
  const environment = await gatewayOf(shards)
  await expect(resolveShards(environment)).rejects.toMatchObject({
    code: 'node_unavailable',
    message: expect.stringMatching(
      `${scratch} does not tell what is prepared there: .*; ${gid}: rolled back`,
    ) as string,
    detail: { resolved: [{ gid, participant: treasury, verdict: 'rolled back', record: 'ABORTED' }] },
  })
  expect(await shards.prepared(treasury)).toEqual([])
})

test('a shard that falls silent behind an acceptance leaves no doubt of that', async () => {
  away(treasury)
  await expect(resolveAccepted(await gatewayOf(shards), treasury)).rejects.toMatchObject({
    code: 'node_unavailable',
    hint: expect.stringMatching(/^what was accepted stands/) as string,
    detail: { shard: treasury },
  })
})

test.each([
  ['before anything is read of it', 0],
  ['while it is asked to close', 1],
  ['when it has closed', 3],
])('a history without one shard would not be merged: %s', async (_, answers) => {
  const environment = await gatewayOf(shards)
  await transact(environment, request('r'), approve(newRun()))
  await environment.background.drain()
  // Nobody closes timestamps here, and it is not waited for.
  let nowMs = 0
  const clock = { ...systemClock, monotonicMs: () => (nowMs += 10_000) }
  let asked = 0
  const targetOf: typeof environment.targetOf = (node) => {
    const target = environment.targetOf(node)
    if (node.shard !== treasury) return target
    asked += 1
    return asked > answers ? { ...target, host: '127.0.0.1', port: 1 } : target
  }
  const read = async () => {
    for await (const entry of readTimeline({ environment: { ...environment, clock, targetOf }, archives: new Map() })) {
      expect(entry).toBeDefined()
    }
  }
  await expect(read()).rejects.toMatchObject({
    code: 'node_unavailable',
    message: expect.stringMatching(`^${treasury} does not tell its history`) as string,
    detail: { shard: treasury },
  })
})
