import { readdir, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { stringify } from 'yaml'
import { leftBehind } from '../../examples/payledger/demo/leftovers.ts'
import { present } from '../../src/base/assert.ts'
import type { FleetConfigInput } from '../../src/fleet/config.ts'
import { Command, runJson } from '../support/command.ts'
import { eventually } from '../support/eventually.ts'
import { temporaryFolder } from '../support/fleet.ts'
import { oneShard, shard } from '../support/one-shard.ts'

/** A fleet runs by what its file said at the start, whatever somebody writes there meanwhile. */

let root: string
let configFile: string
let config: FleetConfigInput
let up: Command

beforeAll(async () => {
  root = await temporaryFolder()
  configFile = join(root, 'holdfast.yaml')
  // What is relative is taken from the file's folder, also by whoever attaches.
  config = { ...(await oneShard(root, { durability: 'local' })), dataDir: 'data' }
  await write(config)
  up = new Command(['up', '--json', '--config', configFile])
  await up.ready()
})

beforeEach(() => write(config))

afterAll(async () => {
  up.child.kill('SIGTERM')
  await up.ended
  await rm(root, { recursive: true, force: true, maxRetries: 5 })
})

const write = (input: FleetConfigInput) => writeFile(configFile, stringify(input))
const holdfast = (...args: string[]) => runJson(...args, '--config', configFile)

async function gatewayProcess(): Promise<number | undefined> {
  const found = (await leftBehind(root)).find((what) => what.includes('cli.js gateway') && what.includes('eu-west'))
  return found === undefined ? undefined : Number(/^process (\d+)/.exec(found)?.[1])
}

/** Resolves when another one serves in its place. */
async function killGateway(): Promise<void> {
  const killed = present(await gatewayProcess(), 'the gateway of eu-west')
  process.kill(killed, 'SIGKILL')
  await eventually(async () => {
    const next = await gatewayProcess()
    return next !== undefined && next !== killed
  })
  await eventually(async () => {
    const { document } = await holdfast('status')
    const { gateways } = document as { gateways: { region: string; url: string }[] }
    const url = gateways.find(({ region }) => region === 'eu-west')?.url
    if (url === undefined) return false
    const answer = await fetch(new URL('/readyz', url)).catch(() => undefined)
    return answer?.status === 200
  }, 60_000)
}

test.each([
  ['that is edited and no YAML for the moment', 'dataDir: data\nfleet: [payledger\n'],
  ['that the law refuses', 'fleet: payledger\ndataDir: data\nregions: { mars: { jurisdiction: EU } }\n'],
])('commands and a gateway that is begun again go on beside a file %s', async (_, text) => {
  await writeFile(configFile, text)
  expect(await holdfast('status')).toMatchObject({ code: 0, document: { ready: true } })
  expect(await holdfast('failover', shard, '--what-if')).toMatchObject({ code: 0 })
  await killGateway()
  expect(await holdfast('doctor')).toMatchObject({
    code: 8,
    document: expect.arrayContaining([expect.objectContaining({ what: 'configuration', status: 'problem' })]),
  })
})

test('a file that no fleet was started from gets nothing but its own mistakes', async () => {
  const other = join(root, 'other.yaml')
  await writeFile(other, 'dataDir: data\nfleet: [payledger\n')
  expect(await runJson('status', '--config', other)).toMatchObject({
    code: 2,
    document: { error: { code: 'config_invalid' } },
  })
})

test('a gateway that is begun again archives where the supervisor takes base backups, whatever the file says by then', async () => {
  const moved = join(root, 'moved')
  const regions = { ...config.regions, 'eu-west': { jurisdiction: 'EU', archive: moved } }
  await write({ ...config, regions })
  await killGateway()
  const archivedBytes = async (folder: string) => {
    const names = await readdir(folder, { recursive: true }).catch(() => [])
    const sizes = await Promise.all(names.map((name) => stat(join(folder, name)).then(({ size }) => size)))
    return sizes.reduce((sum, size) => sum + size, 0)
  }
  const folder = join(root, 'archive', 'eu-west')
  const before = await archivedBytes(folder)
  const insert = `insert into payroll_runs (tenant, id, status, total_cents) values ('globex-eu', 'r', 'draft', 1)`
  const place = ['--tenant', 'globex-eu', '--domain', 'payroll', '--action', 'payroll.draft', '--subject', 'r']
  expect(await holdfast('sql', insert, ...place)).toMatchObject({ code: 0 })
  // Where nothing is archived any more the end of the wait says so.
  await eventually(async () => (await archivedBytes(folder)) > before, 60_000).catch(() => undefined)
  expect(await archivedBytes(folder)).toBeGreaterThan(before)
  expect(await readdir(moved).catch(() => 'not there')).toBe('not there')
  const { document } = await holdfast('doctor')
  expect(document).toContainEqual({
    what: 'configuration',
    status: 'warning',
    detail: expect.stringContaining('has changed in regions since the fleet was started'),
  })
})

test('what is kept of the configuration is for nobody else to read: an address of a webhook may be a secret', async () => {
  expect((await stat(join(root, 'data', 'registry.json'))).mode & 0o777).toBe(0o600)
})
