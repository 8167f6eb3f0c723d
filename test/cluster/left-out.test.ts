import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { CommandFleet } from '../support/command-fleet.ts'

/** V10, as an operator meets it: `up` after one primary's data is gone. */

const payroll = 'eu-west/payroll'

let fleet: CommandFleet

beforeAll(async () => {
  fleet = await CommandFleet.open()
})

afterAll(() => fleet?.close())

const closed = `${payroll} takes no traffic, it is fenced; what can be done says: holdfast failover ${payroll} --what-if`

test('the fleet starts without the shard and says so, other shards are served, and a failover brings it back', async () => {
  await fleet.addRun('before')
  await fleet.holdfast('down')
  await fleet.up.ended
  await rm(join(fleet.root, 'data', 'servers', 'eu-west~payroll.1'), { recursive: true })
  expect(await fleet.startAgain()).toMatchObject({ ready: false, closed: [{ shard: payroll, state: 'fenced' }] })

  expect(await fleet.holdfast('status')).toMatchObject({ code: 0, document: { ready: false } })
  const doctor = await fleet.holdfast('doctor')
  expect(doctor.document).toContainEqual({ what: 'shard', status: 'problem', detail: closed })
  const treasury = ['--tenant', 'globex-eu', '--domain', 'treasury']
  const read = await fleet.holdfast('sql', 'select count(*)::int as n from treasury_accounts', ...treasury)
  expect(read).toMatchObject({ code: 0, document: { kind: 'read' } })
  const refused = await fleet.sql('select id from payroll_runs')
  expect(refused).toMatchObject({ code: 6, document: { error: { category: 'unavailable' } } })

  const { document } = await fleet.holdfast('failover', payroll)
  expect(document).toMatchObject({ shard: payroll, promoted: { epoch: 2 } })
  expect(await fleet.sql('select id from payroll_runs')).toMatchObject({ document: { rows: [{ id: 'before' }] } })
  await fleet.addRun('after')
  expect(await fleet.holdfast('status')).toMatchObject({ document: { ready: true } })
})
