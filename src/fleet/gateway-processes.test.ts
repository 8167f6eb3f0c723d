import { readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { eventually } from '../../test/support/eventually.ts'
import { temporaryFolder } from '../../test/support/fleet.ts'
import { present } from '../base/assert.ts'
import type { Clock } from '../base/clock.ts'
import { systemClock } from '../base/clock.ts'
import type { RegionName } from '../directory/topology.ts'
import { lives, signal } from '../postgres/server/processes.ts'
import { GatewayProcesses } from './gateway-processes.ts'

const region = 'eu-west' as RegionName

/** One that waits a tenth of a second at most for what does not come. */
const impatient: Clock = { ...systemClock, sleep: (ms, until) => systemClock.sleep(Math.min(ms, 100), until) }

let root: string
let gateways: GatewayProcesses
let troubles: unknown[]

beforeEach(async () => {
  root = await temporaryFolder()
  troubles = []
})

afterEach(async () => {
  for (const pid of await started()) signal(pid, 'SIGKILL')
  await rm(root, { recursive: true, force: true })
})

/** Every process that was started, in order. */
async function started(): Promise<number[]> {
  const text = await readFile(join(root, 'pids'), 'utf8').catch(() => '')
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map(Number)
}

/** Gateways that the first of them serves, or not even that one. The others refuse, and go on with what they have begun. */
async function gatewaysOf(firstServes: boolean): Promise<void> {
  const program = join(root, 'gateway.mjs')
  await writeFile(
    program,
    `import { appendFileSync, readFileSync } from 'node:fs'
     const pids = process.argv[2]
     appendFileSync(pids, process.pid + '\\n')
     const isFirst = readFileSync(pids, 'utf8') === process.pid + '\\n'
     process.on('SIGTERM', () => undefined)
     setInterval(() => undefined, 1_000)
     if (isFirst && ${firstServes}) process.send({ url: 'http://127.0.0.1:7400' })
     else process.send({ error: { code: 'port_taken', message: '127.0.0.1:7400 is in use' } })`,
  )
  gateways = new GatewayProcesses({
    program,
    args: () => [join(root, 'pids')],
    clock: impatient,
    onChange: () => undefined,
    onTrouble: (_region, error) => troubles.push(error),
  })
}

const living = async () => {
  const all = await started()
  const alive = await Promise.all(all.map(lives))
  return all.filter((_, index) => alive[index])
}

test('a gateway that cannot serve is told with its reason, and runs no more', async () => {
  await gatewaysOf(false)
  await expect(gateways.start(region)).rejects.toMatchObject({ code: 'port_taken' })
  expect(await started()).toHaveLength(1)
  expect(await living()).toEqual([])
  await gateways.stop()
})

test('one that had served and cannot again leaves none of its attempts', async () => {
  await gatewaysOf(true)
  await gateways.start(region)
  const [first] = await started()
  signal(present(first, 'it runs'), 'SIGKILL')
  await eventually(() => troubles.length > 2)
  await gateways.stop()
  expect(troubles[0]).toMatchObject({ code: 'port_taken' })
  expect(await living()).toEqual([])
})
