import { afterEach, beforeEach, expect, test } from 'vitest'
import { DatabaseShards, home, treasury } from '../../test/support/database-shards.ts'
import { systemClock } from '../base/clock.ts'
import { newTimeOrderedUuid } from '../base/random.ts'
import type { ShardName, TransactionId } from '../directory/topology.ts'
import { Connection } from '../postgres/connection.ts'
import { formatGid } from '../transaction/gid.ts'
import { settleAll } from './cutover-fence.ts'

let shards: DatabaseShards

beforeEach(async () => {
  shards = await DatabaseShards.open()
})

afterEach(() => shards.close())

async function orphan(): Promise<string> {
  const transactionId = newTimeOrderedUuid() as TransactionId
  const gid = formatGid('test', { home, transactionId, participant: treasury })
  const connection = await Connection.connect(shards.target(treasury, 'holdfast_gateway'), 10_000)
  await connection.query('begin')
  await connection.query(`prepare transaction '${gid}'`)
  connection.release()
  return gid
}

const settle = () => {
  const names: ShardName[] = [home, treasury]
  const fenced = names.map((shard) => ({ shard, epoch: shards.shard(shard).epoch, target: shards.target(shard) }))
  return settleAll(
    { fleet: 'test', clock: systemClock },
    fenced,
    new Map(names.map((shard) => [shard, shards.target(shard)])),
  )
}

test('K1: a branch without a record stops a cutover where its home may have collected that, and is rolled back elsewhere', async () => {
  const gid = await orphan()
  const [watermark] = await shards.rows<{ before: string }>(
    home,
    'select collected_through_ms as before from holdfast.shard',
  )
  await shards.rows(home, 'update holdfast.shard set collected_through_ms = (2 ^ 47)::bigint')
  await expect(settle()).rejects.toMatchObject({ code: 'check_failed', detail: { gid, home, shard: treasury } })
  expect(await shards.prepared(treasury)).toEqual([gid])
  await shards.rows(home, 'update holdfast.shard set collected_through_ms = $1', [watermark?.before])
  expect(await settle()).toBe('1 branches settled')
  expect(await shards.prepared(treasury)).toEqual([])
})
