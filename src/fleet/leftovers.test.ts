import { expect, test } from 'vitest'
import type { Epoch, HistoryId, NodeId, RegionName, ShardName } from '../directory/topology.ts'
import type { Environment, EnvironmentShard } from '../recovery/environment.ts'
import { findLeftovers } from './leftovers.ts'
import type { NodeDocument, TopologyDocument } from './topology-store.ts'

const node = (folder: string): NodeDocument => ({
  id: folder as NodeId,
  region: 'eu-west' as RegionName,
  folder,
  host: '/run',
  port: 1,
  links: {},
})
const topology = (nodes: readonly string[], retired: readonly string[] = []): Pick<TopologyDocument, 'shards'> => ({
  shards: {
    ['eu-west/payroll' as ShardName]: {
      durability: 'quorum',
      epoch: 1 as Epoch,
      historyId: 'a history' as HistoryId,
      state: 'open',
      primary: 'a node' as NodeId,
      nodes: nodes.map(node),
      nextNode: 9,
      retired: retired.map((folder) => ({ node: node(folder), successor: 9 })),
    },
  },
})
const environment = (state: Environment['state'], name: string) => ({
  state,
  shards: [{ dataDir: `/data/servers/${name}`, walDir: `/data/servers/${name}-wal` } as EnvironmentShard],
})
const restored = 'restore-0123abcd-0'

test('F5: what nodes, retired nodes and environments have stays, and what nobody has goes', () => {
  const document = topology(['eu-west~payroll.3'], ['eu-west~payroll.2'])
  const all = ['eu-west~payroll.1', 'eu-west~payroll.2', 'eu-west~payroll.3', restored, `${restored}-wal`]
  expect(findLeftovers(all, document, [environment('restored', restored)])).toEqual(['eu-west~payroll.1'])
  expect(findLeftovers(all, document, [environment('restoring', restored)])).toEqual(['eu-west~payroll.1'])
  expect(findLeftovers(all, document, [environment('failed', restored)])).toEqual(['eu-west~payroll.1'])
  expect(findLeftovers(all, document, [])).toEqual(['eu-west~payroll.1', restored, `${restored}-wal`])
})

test('F5: what a cutover took of an environment is the topology’s, and goes when that has left it', () => {
  const adopted = [environment('adopted', restored)]
  expect(findLeftovers([restored], topology([restored]), adopted)).toEqual([])
  expect(findLeftovers([restored], topology(['eu-west~payroll.7']), adopted)).toEqual([restored])
})

test('F5: a follower that was not built to its end goes', () => {
  expect(findLeftovers(['eu-west~payroll.4.building'], topology(['eu-west~payroll.4']), [])).toEqual([
    'eu-west~payroll.4.building',
  ])
})

test('F5: what a fleet never calls a folder is somebody else’s and stays', () => {
  expect(findLeftovers(['lost+found', 'notes', '.cache', 'restore-of-monday'], topology([]), [])).toEqual([])
})
