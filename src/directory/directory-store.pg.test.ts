import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { DatabaseShards, domains, home, otherTenant, tenant, treasury } from '../../test/support/database-shards.ts'
import { eventually } from '../../test/support/eventually.ts'
import type { ConnectionTarget } from '../postgres/statement.ts'
import { ConnectionPools } from '../postgres/pools.ts'
import { DirectoryStore } from './directory-store.ts'
import type { FleetNode } from './topology.ts'

let shards: DatabaseShards
let pools: ConnectionPools

beforeAll(async () => {
  shards = await DatabaseShards.open()
  pools = new ConnectionPools()
})

afterAll(async () => {
  await pools.close()
  await shards.close()
})

const nowhere = (target: ConnectionTarget): ConnectionTarget => ({ ...target, host: '/nonexistent' })
const target = (node: FleetNode) => shards.target(node.shard, 'holdfast_gateway')
const open = (targetOf: (node: FleetNode) => ConnectionTarget) =>
  DirectoryStore.open({ domains, topology: shards.topology, pools, targetOf })

describe('the directory of a process', () => {
  test('is what the shards’ rows say', async () => {
    const store = await open(target)
    expect(store.current().resolve(tenant, 'payroll')).toMatchObject({ shard: home, version: 1, service: 'full' })
    expect(store.current().resolve(otherTenant, 'payroll')).toMatchObject({ shard: treasury })
    expect(store.current().home(tenant)).toBe(home)
  })

  test('P4: a refresh advances to the highest version that any shard tells, and never back', async () => {
    const store = await open(target)
    await shards.rows(treasury, `update holdfast.placement set version = 4, service = 'read-only' where tenant = $1`, [
      tenant,
    ])
    expect((await store.refresh()).resolve(tenant, 'payroll')).toMatchObject({ version: 4, service: 'read-only' })
    await shards.rows(treasury, `update holdfast.placement set version = 1, service = 'full' where tenant = $1`, [
      tenant,
    ])
    expect((await store.refresh()).resolve(tenant, 'payroll')).toMatchObject({ version: 4 })
  })

  test('needs one shard that answers', async () => {
    const store = await open((node) => (node.shard === home ? target(node) : nowhere(target(node))))
    expect(store.current().tenants()).toContain(tenant)
  })

  test('is not empty where no shard answers yet: whoever asks hears that, until one does', async () => {
    let isUp = false
    const store = await open((node) => (isUp ? target(node) : nowhere(target(node))))
    const ask = () => store.current().tenants()
    await expect(store.refresh()).rejects.toMatchObject({ code: 'node_unavailable' })
    expect(ask).toThrow(expect.objectContaining({ code: 'node_unavailable' }) as Error)
    isUp = true
    await eventually(() => {
      try {
        return ask().some((one) => one === tenant)
      } catch {
        return false
      }
    })
  })
})
