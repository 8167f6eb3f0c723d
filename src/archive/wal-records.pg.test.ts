import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { archiveSettings } from '../../test/support/archive-shard.ts'
import { ServerYard } from '../../test/support/servers.ts'
import { present } from '../base/assert.ts'
import type { Connection } from '../postgres/connection.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { formatLsn, parseLsn, toLsn } from '../postgres/lsn.ts'
import type { LocalServer } from '../postgres/server/local-server.ts'
import { beforePageHeader, segmentHeader, walExtent } from './wal-records.ts'
import { segmentName, segmentNumber, segmentStart } from './wal-segment.ts'

const segmentBytes = 4 << 20

let yard: ServerYard
let server: LocalServer
let admin: Connection

beforeAll(async () => {
  yard = await ServerYard.open()
  server = await yard.primary('primary', archiveSettings)
  admin = await yard.connect(server)
  await admin.query('create extension pg_walinspect')
  await admin.query('create table item (id bigserial primary key, filler text)')
  await admin.query('alter table item alter column filler set storage external')
})

afterAll(async () => {
  admin.release()
  await yard[Symbol.asyncDispose]()
})

interface WalRecord {
  readonly start: Lsn
  readonly end: Lsn
}

/** The server's own reading of its log. */
async function recordsBetween(from: Lsn, to: Lsn): Promise<WalRecord[]> {
  const { rows } = await admin.query<{ start: string; end: string }>(
    'select start_lsn::text as start, end_lsn::text as end from pg_get_wal_records_info($1, $2) order by start_lsn',
    [formatLsn(from), formatLsn(to)],
  )
  return rows.map(({ start, end }) => ({ start: parseLsn(start), end: parseLsn(end) }))
}

async function lsnNow(): Promise<Lsn> {
  const { rows } = await admin.query<{ lsn: string }>('select pg_current_wal_flush_lsn()::text as lsn')
  return parseLsn(present(rows[0], 'a row').lsn)
}

function segment(lsn: Lsn): Promise<Buffer> {
  const name = segmentName({ timeline: 1, number: segmentNumber(lsn, segmentBytes) }, segmentBytes)
  return readFile(join(server.dataDir, 'pg_wal', name))
}

/** A position behind a page header, and before the first record on the page, is the same place. */
const place = (lsn: Lsn) => beforePageHeader(lsn, segmentBytes)

describe('the end of the log in a segment', () => {
  test('is where the server’s own reading ends, wherever the bytes are cut', async () => {
    await admin.query('select pg_switch_wal()')
    await admin.query(`insert into item (filler) values ('first')`)
    const start = segmentStart(segmentNumber(await lsnNow(), segmentBytes), segmentBytes)
    // Records of every size up to some pages, full pages after a checkpoint, prepared transactions, long messages.
    for (let round = 0; round < 20; round++) {
      await admin.query(`insert into item (filler) select repeat('x', $1::int) from generate_series(1, 5)`, [
        round * 97,
      ])
      await admin.query(`select pg_logical_emit_message(false, 'long', repeat('y', $1::int))`, [round * 2500])
      if (round % 5 === 0) await admin.query('checkpoint')
      if (round % 4 === 0) {
        await admin.script(`begin; insert into item (filler) values ('p'); prepare transaction 'p${round}'`)
        await admin.query(`commit prepared 'p${round}'`)
      }
    }
    const flushed = await lsnNow()
    const bytes = await segment(start)
    const records = (await recordsBetween(start, flushed)).filter(({ end }) => end <= start + BigInt(segmentBytes))
    expect(records.length).toBeGreaterThan(150)
    const last = present(records.at(-1), 'a record')
    const whole = walExtent(bytes.subarray(0, Number(last.end - start)), start, segmentBytes)
    expect(place(whole.end)).toBe(place(last.end))
    expect(whole.lastRecord).toBe(last.start)
    for (let cut = 64; cut < Number(last.end - start); cut += 1009) {
      const at = toLsn(start + BigInt(cut))
      const found = walExtent(bytes.subarray(0, cut), start, segmentBytes)
      const before = records.filter(({ end }) => end <= at)
      // The last record may be whole although the bytes that align its end are cut.
      const near = records.find(({ end }) => end > at && end < at + 8n)
      const expected = [before.at(-1), near].flatMap((record) => (record === undefined ? [] : [place(record.end)]))
      expect(expected.length === 0 ? [start] : expected).toContain(place(found.end))
    }
  })

  test('does not pass a changed byte', async () => {
    const start = segmentStart(segmentNumber(await lsnNow(), segmentBytes), segmentBytes)
    const flushed = await lsnNow()
    const bytes = await segment(start)
    const records = await recordsBetween(start, flushed)
    const { end } = walExtent(bytes, start, segmentBytes)
    for (const [index, record] of records.entries()) {
      if (index % 17 !== 3 || record.end > end) continue
      const changed = Buffer.from(bytes)
      const at = Number(record.end - start) - 9
      changed[at] = (changed[at] ?? 0) ^ 0x10
      // The bytes that only align a record are not part of it.
      const found = walExtent(changed, start, segmentBytes)
      expect(found.end <= record.start || record.end - record.start < 32n).toBe(true)
    }
  })

  test('is the end of the segment when the server left the rest of it empty', async () => {
    await admin.query(`insert into item (filler) values ('last')`)
    const start = segmentStart(segmentNumber(await lsnNow(), segmentBytes), segmentBytes)
    await admin.query('select pg_switch_wal()')
    await admin.query(`insert into item (filler) values ('next')`)
    const bytes = await segment(start)
    expect(walExtent(bytes, start, segmentBytes).end).toBe(start + BigInt(segmentBytes))
  })

  test('is found for a record that goes over from one segment to the next', async () => {
    await admin.query(`select pg_logical_emit_message(true, 'huge', repeat('z', 6000000))`)
    await admin.query(`insert into item (filler) values ('after')`)
    const end = await lsnNow()
    const from = segmentStart(segmentNumber(end, segmentBytes) - 2n, segmentBytes)
    const parts = [0n, 1n, 2n].map((index) => segment(toLsn(from + index * BigInt(segmentBytes))))
    const bytes = Buffer.concat(await Promise.all(parts))
    expect(place(walExtent(bytes, from, segmentBytes).end)).toBe(place(end))
    const cut = walExtent(bytes.subarray(0, segmentBytes + 5000), from, segmentBytes)
    expect(cut.end).toBeLessThan(from + BigInt(segmentBytes) + 5000n)
  })

  test('names the place and the cluster in the first page', async () => {
    const start = segmentStart(segmentNumber(await lsnNow(), segmentBytes), segmentBytes)
    const { rows } = await admin.query<{ id: string }>('select system_identifier::text as id from pg_control_system()')
    expect(segmentHeader(await segment(start))).toEqual({ start, systemId: rows[0]?.id, segmentBytes })
    expect(segmentHeader(Buffer.alloc(8192))).toBeUndefined()
  })

  test('is found behind a record that a crash cut, where the server went on at the next page', async () => {
    const lazy = { ...archiveSettings, wal_buffers: '1MB', wal_writer_delay: '10s' }
    const crashing = await yard.primary('crashing', lazy)
    const first = await yard.connect(crashing)
    await first.query('select pg_switch_wal()')
    await first.query('checkpoint')
    // The buffers cannot hold it: its beginning is written, its end is not.
    await first.query(`select pg_logical_emit_message(false, 'cut', repeat('z', 2500000))`)
    await crashing.kill()
    await crashing.start()
    const again = await yard.connect(crashing)
    await again.query('create table after_the_crash ()')
    const { rows } = await again.query<{ lsn: string; name: string }>(
      'select lsn::text as lsn, pg_walfile_name(lsn) as name from pg_current_wal_flush_lsn() lsn',
    )
    const end = parseLsn(present(rows[0], 'a row').lsn)
    const start = segmentStart(segmentNumber(end, segmentBytes), segmentBytes)
    const bytes = await readFile(join(crashing.dataDir, 'pg_wal', present(rows[0], 'a row').name))
    const pages = Array.from({ length: Number(end - start) / 8192 }, (_, page) => bytes.readUInt16LE(page * 8192 + 2))
    expect(pages.filter((flags) => (flags & 0x0008) !== 0)).toHaveLength(1)
    expect(place(walExtent(bytes, start, segmentBytes).end)).toBe(place(end))
    again.release()
  })

  test('is nowhere in zeros and in the log of another place', async () => {
    const start = segmentStart(segmentNumber(await lsnNow(), segmentBytes), segmentBytes)
    const other = toLsn(start + BigInt(segmentBytes))
    expect(walExtent(Buffer.alloc(segmentBytes), start, segmentBytes)).toEqual({ end: start, lastRecord: null })
    expect(walExtent(await segment(start), other, segmentBytes)).toEqual({ end: other, lastRecord: null })
    expect(walExtent(Buffer.alloc(0), start, segmentBytes).end).toBe(start)
  })
})
