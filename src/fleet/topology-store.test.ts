import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import type { Epoch, HistoryId, NodeId, ShardName } from '../directory/topology.ts'
import type { ShardDocument } from './topology-store.ts'
import { TopologyStore } from './topology-store.ts'

const names = ['eu-west/payroll', 'us-east/treasury'] as ShardName[]

const shard = (name: ShardName): ShardDocument => ({
  durability: 'quorum',
  epoch: 1 as Epoch,
  historyId: 'a history' as HistoryId,
  state: 'fenced',
  primary: `${name}.1` as NodeId,
  nodes: [],
  nextNode: 2,
})

test('F3: changes of two shards at once both stand, durable and told', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'hf-topology-'))
  try {
    const path = join(folder, 'topology.json')
    const shards = Object.fromEntries(names.map((name) => [name, shard(name)]))
    const store = await TopologyStore.create(path, { version: 1, fleet: 'test', regions: {}, shards })
    await Promise.all(names.map((name) => store.replaceShard(name, { ...store.shard(name), state: 'open' })))
    expect(names.map((name) => store.shard(name).state)).toEqual(['open', 'open'])
    expect(store.document.version).toBe(3)
    expect(JSON.parse(await readFile(path, 'utf8'))).toEqual(JSON.parse(JSON.stringify(store.document)))
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
})
