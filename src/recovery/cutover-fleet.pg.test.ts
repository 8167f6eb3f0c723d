import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { DatabaseShards, home } from '../../test/support/database-shards.ts'
import type { HistoryId } from '../directory/topology.ts'
import { withConnection } from '../postgres/postgres.ts'
import type { CutoverFleet } from './cutover-fleet.ts'
import { reopen } from './cutover-fleet.ts'

vi.setConfig({ testTimeout: 60_000 })

let shards: DatabaseShards

beforeEach(async () => {
  shards = await DatabaseShards.open()
})

afterEach(() => shards.close())

test('a shard that does not answer keeps who opens it again from his turn for seconds', async () => {
  const { epoch } = shards.shard(home)
  const target = shards.target(home)
  const told: string[] = []
  const standing = { epoch, historyId: '' as HistoryId, primary: target, isAlive: true, isPromoting: false }
  const fleet: CutoverFleet = {
    standing: (shard) => ({ shard, ...standing, followersRunning: [] }),
    reopened: async (shard) => void told.push(shard),
    requireRolledOut: () => Promise.reject(new Error('nothing is taken in')),
    adopt: () => Promise.reject(new Error('nothing is taken in')),
    open: () => Promise.reject(new Error('nothing is taken in')),
  }
  await withConnection(target, async (admin) => {
    await admin.query('begin')
    await admin.query('lock table holdfast.shard in access exclusive mode')
    await expect(reopen(fleet, { shard: home, epoch, target })).rejects.toThrow('no answer within 20000 ms')
    await admin.query('rollback')
  })
  expect(told).toEqual([])
  await reopen(fleet, { shard: home, epoch, target })
  expect(told).toEqual([home])
})
