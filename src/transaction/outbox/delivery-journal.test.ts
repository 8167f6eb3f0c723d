import { constants } from 'node:buffer'
import { appendFile, mkdir, mkdtemp, open, readFile, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { DeliveryJournal, readDeliveries } from './delivery-journal.ts'
import type { DeliveryRecord } from './delivery-record.ts'
import { decodeDelivery, encodeDelivery } from './delivery-record.ts'

let folder: string
let path: string

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'hf-journal-'))
  path = join(folder, 'deliveries', 'eu-west~payroll.jsonl')
})

afterEach(() => rm(folder, { recursive: true }))

function delivery(
  eventId: string,
  state: DeliveryRecord['state'],
  reason = state === 'failed' ? 'answered 500' : null,
): DeliveryRecord {
  return {
    eventId,
    state,
    transactionId: `transaction of ${eventId}`,
    commitTimestamp: '115000000000000001',
    tenant: 'globex-eu',
    name: 'payroll.approved',
    at: 1_775_124_005_120,
    reason,
  }
}

async function journalled(...records: DeliveryRecord[]): Promise<void> {
  await using journal = await DeliveryJournal.open(path)
  for (const record of records) await journal.record(record)
}

async function read(stretchBytes?: number): Promise<DeliveryRecord[]> {
  const records: DeliveryRecord[] = []
  for await (const record of readDeliveries(path, stretchBytes)) records.push(record)
  return records
}

const records = fc.record({
  eventId: fc.string(),
  transactionId: fc.string(),
  commitTimestamp: fc.string(),
  tenant: fc.string(),
  name: fc.string({ unit: 'binary' }),
  state: fc.constantFrom('sending' as const, 'delivered' as const, 'failed' as const),
  at: fc.nat(),
  reason: fc.option(fc.string({ unit: 'binary' })),
})

describe('a line', () => {
  test('gives back what was written, on one line', () => {
    fc.assert(
      fc.property(records, (record) => {
        const line = encodeDelivery(record)
        expect(line).not.toContain('\n')
        expect(decodeDelivery(line)).toEqual(record)
      }),
    )
  })

  test('every beginning of one is torn, whatever its strings hold', () => {
    fc.assert(
      fc.property(records, (record) => {
        const line = encodeDelivery({ ...record, name: `${record.name}"sum":"0123456789abcdef0123456789abcdef"}` })
        for (let length = 0; length < line.length; length += 1)
          expect(decodeDelivery(line.slice(0, length))).toBe('torn')
      }),
      { numRuns: 20 },
    )
  })

  test('a whole one with another word in it is corrupt', () => {
    const line = encodeDelivery(delivery('e1', 'failed'))
    expect(decodeDelivery(line.replace('"failed"', '"delivered"'))).toBe('corrupt')
    expect(decodeDelivery(line.replace('globex', 'glopex'))).toBe('corrupt')
    expect(decodeDelivery(line.replace('{', '{"extra":1,'))).toBe('corrupt')
  })
})

describe('the journal', () => {
  test('E3: what was delivered stays delivered when the file is opened again, whatever came after it', async () => {
    await journalled(delivery('e1', 'sending'), delivery('e1', 'delivered'), delivery('e1', 'sending'))
    await using journal = await DeliveryJournal.open(path)
    expect(journal.isDelivered('e1')).toBe(true)
  })

  test('E2: sending and failed are not delivered', async () => {
    await journalled(delivery('e1', 'sending'), delivery('e2', 'sending'), delivery('e2', 'failed'))
    await using journal = await DeliveryJournal.open(path)
    expect([journal.isDelivered('e1'), journal.isDelivered('e2')]).toEqual([false, false])
  })

  test('a torn end costs its own record alone, at whichever byte it was torn', async () => {
    await journalled(delivery('e1', 'delivered'))
    const { length } = await readFile(path)
    await journalled(delivery('e2', 'delivered'))
    const whole = await readFile(path)
    for (let size = length; size < whole.length; size += 1) {
      await writeFile(path, whole)
      await truncate(path, size)
      await journalled(delivery('e3', 'delivered'))
      await using journal = await DeliveryJournal.open(path)
      expect([journal.isDelivered('e1'), journal.isDelivered('e3')]).toEqual([true, true])
      // Only the newline may be missing for the record to count, since the next append supplies it.
      expect(journal.isDelivered('e2')).toBe(size === whole.length - 1)
    }
  })

  test('zeros that a file system put in place of what was not flushed are a torn end', async () => {
    await journalled(delivery('e1', 'delivered'))
    await appendFile(path, Buffer.alloc(512))
    await journalled(delivery('e2', 'delivered'))
    await using journal = await DeliveryJournal.open(path)
    expect([journal.isDelivered('e1'), journal.isDelivered('e2')]).toEqual([true, true])
  })

  test('a line that was changed stops everything, since what was delivered is no longer known', async () => {
    await journalled(delivery('e1', 'delivered'))
    const text = await readFile(path, 'utf8')
    await writeFile(path, text.replace('"delivered"', '"failed"'))
    await expect(DeliveryJournal.open(path)).rejects.toMatchObject({ code: 'check_failed' })
  })

  test('refresh takes up what another dispatcher has journalled since', async () => {
    await using mine = await DeliveryJournal.open(path)
    await mine.record(delivery('e1', 'delivered'))
    await journalled(delivery('e2', 'delivered'))
    expect(mine.isDelivered('e2')).toBe(false)
    await mine.refresh()
    expect([mine.isDelivered('e1'), mine.isDelivered('e2')]).toEqual([true, true])
  })

  test('is read whole, in order, without being opened for writing; where there is none, nothing was delivered', async () => {
    expect(await read()).toEqual([])
    const written = [delivery('e1', 'sending'), delivery('e1', 'delivered')]
    await journalled(...written)
    await appendFile(path, '{"eventId":"torn')
    expect(await read()).toEqual(written)
  })

  test('is the same in stretches of any length', async () => {
    await mkdir(dirname(path))
    await fc.assert(
      fc.asyncProperty(fc.array(records), fc.integer({ min: 1, max: 300 }), async (written, stretchBytes) => {
        await writeFile(path, written.map((record) => `${encodeDelivery(record)}\n`).join(''))
        expect(await read(stretchBytes)).toEqual(written)
        await using journal = await DeliveryJournal.open(path, stretchBytes)
        for (const { eventId } of written) {
          const isDelivered = written.some((record) => record.eventId === eventId && record.state === 'delivered')
          expect(journal.isDelivered(eventId)).toBe(isDelivered)
        }
      }),
      { numRuns: 50 },
    )
  })

  test('may be longer than a string can be', async () => {
    const ends = [delivery('first', 'delivered'), delivery('last', 'delivered')]
    const [first, last] = ends.map((record) => `${encodeDelivery(record)}\n`)
    await mkdir(dirname(path))
    const file = await open(path, 'w')
    await file.write(first ?? '')
    // Zeros that nobody wrote take no room on the disk. Each stretch of them is a torn line.
    const step = 128 * 1024
    for (let at = step; at <= constants.MAX_STRING_LENGTH + step; at += step) await file.write('\n', at)
    await file.close()
    await appendFile(path, last ?? '')
    await using journal = await DeliveryJournal.open(path)
    expect(['first', 'last'].map((id) => journal.isDelivered(id))).toEqual([true, true])
    expect(await read()).toEqual(ends)
  })
})

describe('the journal grows with the events and not with the attempts:', () => {
  test('what was said of one that is refused again and again is not written again, by whoever tries', async () => {
    const said = [delivery('e1', 'sending'), delivery('e1', 'failed'), delivery('e1', 'failed', 'answered 503')]
    for (let attempts = 0; attempts < 3; attempts += 1) await journalled(...said, ...said)
    expect(await read()).toEqual(said)
  })

  test('a delivery is written however often it was made, since evidence counts them', async () => {
    await journalled(delivery('e1', 'delivered'), delivery('e1', 'delivered'))
    expect(await read()).toHaveLength(2)
  })

  test('what it has written itself it does not read again', async () => {
    await using journal = await DeliveryJournal.open(path)
    await journal.record(delivery('e1', 'delivered'))
    const text = await readFile(path, 'utf8')
    await writeFile(path, text.replace('"delivered"', '"changed.."'))
    await journal.refresh()
    expect(journal.isDelivered('e1')).toBe(true)
  })
})
