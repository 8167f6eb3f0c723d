import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { initialDirectory } from '../directory/directory.ts'
import type { RegionName, ShardName } from '../directory/topology.ts'
import { exampleConfig } from '../../test/support/example-config.ts'
import type { FleetConfigInput } from './config.ts'
import { loadConfig, parseConfig, roundTripMs } from './config.ts'
import { configTemplate, writeExampleConfig } from './config-template.ts'

const parse = (text: string) => parseConfig(text, { baseDir: '/srv/app', file: 'holdfast.yaml' })

describe('the configuration of the contract', () => {
  const config = parse(exampleConfig)

  test('has absolute paths', () => {
    expect(config).toMatchObject({
      fleet: 'payledger',
      dataDir: '/srv/app/.holdfast',
      listen: { host: '127.0.0.1', port: 7400 },
      app: '/srv/app/examples/payledger/app.js',
      invariants: '/srv/app/invariants',
      maxClockOffsetMs: 500,
      restoreWindowMs: 35 * 86_400_000,
      drills: { everyMs: 86_400_000, targetAgeMs: 300_000 },
      outbox: { webhook: 'http://127.0.0.1:9999/hook' },
    })
    expect([...config.domains.values()].map((domain) => domain.schema)).toEqual([
      '/srv/app/schema/payroll',
      '/srv/app/schema/treasury',
      '/srv/app/schema/tax',
      null,
    ])
  })

  test('has shards with the archive that is legal and near', () => {
    expect(config.shards.get('eu-west/payroll' as ShardName)).toEqual({
      name: 'eu-west/payroll',
      region: 'eu-west',
      durability: 'quorum',
      followers: ['eu-west', 'eu-central'],
      survive: 'region',
      archive: { region: 'eu-west', path: '/srv/app/archive/eu-west' },
    })
  })

  test('has round trips both ways, and none within a region', () => {
    const [west, east] = ['eu-west' as RegionName, 'us-east' as RegionName]
    expect([roundTripMs(config.links, west, east), roundTripMs(config.links, east, west)]).toEqual([80, 80])
    expect(roundTripMs(config.links, west, west)).toBe(0)
  })

  test('makes a directory', () => {
    const directory = initialDirectory(config)
    expect(directory.resolve('globex-eu', 'payroll').shard).toBe('eu-west/payroll')
    expect(directory.resolve('globex-eu', 'treasury').shard).toBe('us-east/treasury')
  })

  test('keeps which columns may leave a domain', () => {
    const finance = [...config.domains.values()].find((domain) => domain.name === 'finance')
    expect([...(finance?.from ?? [])].map(([domain, tables]) => [domain, [...tables]])).toEqual([
      ['payroll', [['payroll_runs', ['id', 'status']]]],
    ])
  })
})

test('defaults are filled', () => {
  const config = parse(`fleet: small
regions: { eu: { jurisdiction: EU } }
shards: { eu/only: { followers: [eu, eu] } }
tenants:
`)
  expect(config).toMatchObject({
    dataDir: '/srv/app/.holdfast',
    listen: { host: '127.0.0.1', port: 7400 },
    maxClockOffsetMs: 500,
    links: [],
    app: null,
    invariants: null,
    drills: null,
    outbox: null,
  })
  expect(config.shards.get('eu/only' as ShardName)).toMatchObject({
    durability: 'quorum',
    survive: 'node',
    archive: null,
  })
})

test('the example of `holdfast init` is a configuration', () => {
  const config = parse(configTemplate)
  expect([...config.shards.keys()]).toEqual(['eu-west/main', 'us-east/main'])
})

test('`holdfast init` writes the example once and never over a file', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'holdfast-'))
  try {
    const file = join(folder, 'holdfast.yaml')
    const tables = join(folder, 'schema', 'accounts', '0001-accounts.sql')
    expect(await writeExampleConfig(file)).toEqual([file, tables])
    expect((await loadConfig(file)).dataDir).toBe(join(folder, '.holdfast'))
    await expect(writeExampleConfig(file)).rejects.toMatchObject({ code: 'argument_invalid' })
  } finally {
    await rm(folder, { recursive: true })
  }
})

test('the commented keys of the example are right too', () => {
  const text = configTemplate
    .replace(/^# (app|maxClockOffset|restoreWindow|invariants|drills|outbox):/gm, '$1:')
    .replace(/^# (treasury:|rates:|overview:|  (?:class|placement|tables|policy):)/gm, '  $1')
  const config = parse(text)
  expect([...config.domains.keys()]).toEqual(['accounts', 'treasury', 'rates', 'overview'])
  expect(config).toMatchObject({ app: '/srv/app/app.js', outbox: { webhook: 'http://127.0.0.1:9999/hook' } })
})

describe('an object in place of a file', () => {
  const object: FleetConfigInput = {
    fleet: 'payledger',
    regions: { 'eu-west': { jurisdiction: 'EU', archive: 'archive' } },
    shards: { 'eu-west/payroll': { followers: ['eu-west', 'eu-west'] } },
    domains: { payroll: { class: 'regulated', placement: 'tenant-home', tables: ['payroll_runs'] } },
    tenants: {
      'globex-eu': {
        home: 'eu-west/payroll',
        policy: { authority: ['eu-west'], replicas: ['EU'], otherwise: 'read-only' },
      },
    },
  }

  test('is the same configuration', async () => {
    const config = await loadConfig(object, '/srv/app')
    expect(config.regions.get('eu-west' as RegionName)?.archive).toBe(join('/srv/app', 'archive'))
  })

  test('is refused with the path in place of the line', async () => {
    await expect(loadConfig({ ...object, shards: { 'eu-west/payroll': {} } }, '/srv/app')).rejects.toMatchObject({
      code: 'config_invalid',
      message: 'config: shards.eu-west/payroll.followers: quorum waits for one of at least two followers, here are 0',
    })
  })
})

test('a file that is not there is told by its name', async () => {
  await expect(loadConfig('missing.yaml', '/srv/app')).rejects.toMatchObject({
    code: 'config_invalid',
    message: 'missing.yaml: cannot be read',
  })
})
