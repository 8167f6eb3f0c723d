import { appendFile, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import type { FreshDatabase } from '../../../test/support/database.ts'
import { freshDatabase } from '../../../test/support/database.ts'
import { newRandomUuid, newTimeOrderedUuid } from '../../base/random.ts'
import { Connection } from '../../postgres/connection.ts'
import { DeliveryJournal } from './delivery-journal.ts'
import type { DeliveryRecord } from './delivery-record.ts'
import { encodeDelivery } from './delivery-record.ts'
import { waitingEvents } from './waiting.ts'

let database: FreshDatabase
let admin: Connection
let folder: string
let path: string

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'hf-waiting-'))
  path = join(folder, 'journal.jsonl')
  database = await freshDatabase()
  admin = await Connection.connect(database.target(), 5_000)
  await admin.script(`call holdfast.found_shard('test', 'eu-west/payroll', 'local', gen_random_uuid(), 500)`)
})

afterEach(async () => {
  admin.release()
  await database.drop()
  await rm(folder, { recursive: true })
})

/** A committed transaction with so many events, as stamps leave them; gives the ids. */
async function commit(commitTimestamp: number, events = 1): Promise<string[]> {
  const ids = Array.from({ length: events }, () => newRandomUuid())
  const transactionId = newTimeOrderedUuid()
  await admin.flight([
    { text: 'begin' },
    {
      text: `insert into holdfast.commit_log (transaction_id, commit_timestamp, xid, tenant, action, subject, actor,
               placements, epoch, participants)
             values ($1, $2, pg_current_xact_id(), 'globex-eu', 'test', 'test', 'test', '{}', 1, '{}')`,
      values: [transactionId, commitTimestamp],
    },
    {
      text: `insert into holdfast.outbox (event_id, transaction_id, ordinal, tenant, name, payload)
             select e.id::uuid, $1, e.ordinal, 'globex-eu', 'test', '{}'
             from unnest($2::text[]) with ordinality e(id, ordinal)`,
      values: [transactionId, ids],
    },
    { text: 'commit' },
  ])
  return ids
}

const recordOf = (state: DeliveryRecord['state'], commitTimestamp: number, eventId: string): DeliveryRecord => ({
  eventId,
  transactionId: 't',
  commitTimestamp: String(commitTimestamp),
  tenant: 'globex-eu',
  name: 'test',
  state,
  at: 1,
  reason: state === 'failed' ? 'answered 500' : null,
})

async function journalled(state: DeliveryRecord['state'], commitTimestamp: number, ids: readonly string[]) {
  await using journal = await DeliveryJournal.open(path)
  for (const eventId of ids) await journal.record(recordOf(state, commitTimestamp, eventId))
}

test('nothing waits where nothing was emitted, and where all was delivered', async () => {
  expect(await waitingEvents(admin, path)).toBe(null)
  await journalled('delivered', 10, await commit(10))
  expect(await waitingEvents(admin, path)).toBe(null)
})

test('what was never tried waits as well: nobody may dispatch, and behind one that nobody answers none is sent', async () => {
  await journalled('delivered', 10, await commit(10))
  await journalled('failed', 20, await commit(20))
  await journalled('delivered', 30, await commit(30))
  await commit(40, 2)
  expect(await waitingEvents(admin, path)).toEqual({ events: 3, isMore: false, since: 20n })
})

test('behind the last that was delivered, over pages', async () => {
  const [first = '', ...others] = await commit(10, 1_500)
  await journalled('delivered', 10, [first])
  expect(await waitingEvents(admin, path)).toEqual({ events: others.length, isMore: false, since: 10n })
})

test('one of a history that was left waits for nobody', async () => {
  await journalled('failed', 5, [newRandomUuid()])
  await journalled('delivered', 10, await commit(10))
  expect(await waitingEvents(admin, path)).toBe(null)
})

test('one of a history that was left does not have all counted again that was delivered behind it', async () => {
  await journalled('failed', 5, [newRandomUuid()])
  for (const at of [10, 20, 30]) {
    const lines = (await commit(at, 1_000)).map((id) => `${encodeDelivery(recordOf('delivered', at, id))}\n`)
    await appendFile(path, lines.join(''))
  }
  await journalled('failed', 40, await commit(40))
  await journalled('delivered', 50, await commit(50))
  const asked = vi.spyOn(admin, 'flight')
  expect(await waitingEvents(admin, path)).toEqual({ events: 1, isMore: false, since: 40n })
  // From where to count, and one page.
  expect(asked).toHaveBeenCalledTimes(2)
})
