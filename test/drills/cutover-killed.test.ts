import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { exitCodes } from '../../src/cli/output.ts'
import type { TopologyDocument } from '../../src/fleet/topology-store.ts'
import { CommandFleet } from '../support/command-fleet.ts'

/** A supervisor that is killed when it has told of a switched shard, and has not removed the nodes of the history before. */

let fleet: CommandFleet

beforeAll(async () => {
  fleet = await CommandFleet.open({ crashAt: 'cutover remove' })
})

afterAll(() => fleet?.close())

const dataDir = () => fleet.ready.dataDir
const folders = async () => (await readdir(join(dataDir(), 'servers'))).toSorted()

async function named(): Promise<string[]> {
  const { shards } = JSON.parse(await readFile(join(dataDir(), 'topology.json'), 'utf8')) as TopologyDocument
  return Object.values(shards).flatMap(({ nodes }) => nodes.map(({ folder }) => folder))
}

test('F5: at the next start it removes what nobody names any more and tells; the cutover is run again and leaves nothing', async () => {
  await fleet.holdfast('backup')
  const { transactionId: wrong } = await fleet.addRun('wrong')
  await fleet.addRun('kept')
  const before = await named()
  const restored = await fleet.holdfast('restore', '--before', wrong, '--without', wrong)
  const { environment } = restored.document as { environment: string }
  expect((await fleet.holdfast('cutover', environment)).code).toBe(exitCodes.unavailable)
  expect((await fleet.up.ended).signal).toBe('SIGKILL')

  const after = await named()
  const left = before.filter((folder) => !after.includes(folder))
  expect(left).toHaveLength(before.length / 2)
  expect(await folders()).toEqual(expect.arrayContaining(left))
  await fleet.startAgain()
  const found = await folders()
  expect(found.filter((folder) => left.includes(folder))).toEqual([])
  // The environment's own stay: the cutover needs them.
  expect(found).toEqual(expect.arrayContaining(after))
  expect(found.filter((folder) => folder.startsWith('restore')).length).toBe(4)

  expect((await fleet.holdfast('cutover', environment)).code).toBe(exitCodes.done)
  expect(await folders()).toEqual((await named()).toSorted())
  const { document } = await fleet.sql('select id from payroll_runs order by id')
  expect(document).toMatchObject({ rows: [{ id: 'kept' }] })
  fleet.up.child.kill('SIGTERM')
  const { stderr } = await fleet.up.ended
  for (const folder of left) expect(stderr).toContain(`${folder}, which belongs to no node`)
})
