import { afterEach, beforeEach, test } from 'vitest'
import { gatewayOf } from '../../test/support/approval.ts'
import { DatabaseShards, scratch } from '../../test/support/database-shards.ts'

let shards: DatabaseShards

beforeEach(async () => {
  shards = await DatabaseShards.open()
})

afterEach(async () => {
  await shards.close()
})

test('B4: a barrier of a local shard passes alone, whoever is named on its server', async () => {
  const { barriers } = await gatewayOf(shards)
  for (let count = 0; count < 100; count += 1) await barriers.pass(scratch, shards.shard(scratch).primary.id)
})
