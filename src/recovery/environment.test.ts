import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { transactionId, treasury } from '../../test/support/redo-values.ts'
import type { RegionName } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import type { Lsn } from '../postgres/lsn.ts'
import type { Environment } from './environment.ts'
import { EnvironmentRegistry } from './environment.ts'
import type { RecoveryTarget } from './target.ts'

describe('the registry of environments', () => {
  let folder: string
  let registry: EnvironmentRegistry

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'hfe-'))
    registry = new EnvironmentRegistry(join(folder, 'environments'))
  })
  afterEach(() => rm(folder, { recursive: true }))

  function environment(id: string, target: RecoveryTarget): Environment {
    const place = { shard: treasury, region: 'us-east' as RegionName, serverId: `${id}/x`, dataDir: '/d', walDir: '/w' }
    return {
      id,
      createdAt: `2026-04-02T10:00:0${id}.000Z`,
      state: 'restored',
      target,
      without: ['us-east/treasury@0/78'],
      shards: [
        { ...place, address: null, stop: { kind: 'before', lsn: 0xffff_ffff_ffffn as Lsn } },
        { ...place, address: { host: '/s', port: 1 }, stop: { kind: 'after', lsn: 1n as Lsn, through: 2n as Lsn } },
      ],
      report: null,
      isDrill: false,
    }
  }

  test.each<RecoveryTarget>([
    { kind: 'before', transaction: transactionId(1) },
    { kind: 'at', timestamp: 116_369_000_000_000_001n as Hlc, transactionId: transactionId(2) },
    { kind: 'at', timestamp: 7n as Hlc, transactionId: null },
    { kind: 'time', wallMs: 1 },
    { kind: 'end' },
  ])('gives back what was stored, with a target of kind $kind', async (target) => {
    await registry.store(environment('1', target))
    expect(await registry.load('1')).toEqual(environment('1', target))
  })

  test('lists the oldest first, and forgets what is removed', async () => {
    for (const id of ['2', '1']) await registry.store(environment(id, { kind: 'end' }))
    expect((await registry.list()).map(({ id }) => id)).toEqual(['1', '2'])
    await registry.remove('1')
    await expect(registry.load('1')).rejects.toMatchObject({ code: 'unknown_environment', hint: 'there are 2' })
  })

  test('has none before the first, and tells of what it cannot read: nobody may take its folders for left behind', async () => {
    expect(await registry.list()).toEqual([])
    await mkdir(join(folder, 'environments', '1'), { recursive: true })
    await writeFile(join(folder, 'environments', '1', 'environment.json'), '{ "format": 2 }')
    await expect(registry.list()).rejects.toThrow()
    await rm(join(folder, 'environments'), { recursive: true })
    await writeFile(join(folder, 'environments'), 'no folder')
    await expect(registry.list()).rejects.toThrow('ENOTDIR')
  })

  test.each(['', '../x', 'no-such-one'])('%j is no environment', async (id) => {
    await expect(registry.load(id)).rejects.toMatchObject({ code: 'unknown_environment' })
  })
})
