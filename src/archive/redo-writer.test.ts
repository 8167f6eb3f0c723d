import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, onTestFinished, test } from 'vitest'
import type { ShardName, TransactionId } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { ArchiveFolder } from './archive-folder.ts'
import { listRedoFiles, positionAt } from './redo-path.ts'
import { readRedo, redoThrough, relationShapes } from './redo-reader.ts'
import { RedoEncoder, readRecords, redoMagic } from './redo-segment.ts'
import type { RedoTransaction, RelationShape } from './redo-transaction.ts'
import { RedoWriter } from './redo-writer.ts'
import type { TimelineHistory } from './timeline.ts'
import { firstTimeline } from './timeline.ts'

const shard = 'eu-west/payroll' as ShardName
const lsn = (value: number) => BigInt(value) as Lsn
const hlc = (value: number) => BigInt(value) as Hlc

const shape: RelationShape = {
  schema: 'public',
  table: 'payroll_runs',
  columns: [
    { name: 'id', type: 'bigint', sequence: null },
    { name: 'note', type: 'text', sequence: null },
  ],
  replicaIdentity: 'full',
  primaryKey: ['id'],
  foreignKeys: [],
}

function transaction(endLsn: number, note = 'x'): RedoTransaction {
  return {
    shard,
    commitLsn: lsn(endLsn - 5),
    endLsn: lsn(endLsn),
    xid: endLsn,
    committedAtMs: endLsn,
    identity: { kind: 'unattributed', after: hlc(0) },
    changes: [{ op: 'insert', relation: 'public.payroll_runs', after: { id: String(endLsn), note } }],
  }
}

async function newFolder(): Promise<ArchiveFolder> {
  const root = await mkdtemp(join(tmpdir(), 'hf-redo-'))
  onTestFinished(() => rm(root, { recursive: true }))
  return new ArchiveFolder(root, shard)
}

async function openWriter(
  folder: ArchiveFolder,
  confirmed = 0,
  history: TimelineHistory = firstTimeline,
  segmentBytesMax = 1 << 20,
): Promise<RedoWriter> {
  const writer = await RedoWriter.open(
    { folder, systemId: '7', history, segmentBytesMax },
    { confirmed: lsn(confirmed), highestStamp: hlc(0), clock: hlc(confirmed) },
  )
  onTestFinished(() => writer.close())
  return writer
}

async function put(writer: RedoWriter, ...ends: number[]): Promise<void> {
  for (const end of ends) writer.append(transaction(end), [shape])
  await writer.flush()
}

async function ends(folder: ArchiveFolder, history = firstTimeline, from?: number, to?: number): Promise<number[]> {
  const found: number[] = []
  const range = {
    history,
    from: from === undefined ? undefined : lsn(from),
    to: to === undefined ? undefined : lsn(to),
  }
  for await (const { endLsn } of readRedo(folder, range)) found.push(Number(endLsn))
  return found
}

describe('the redo stream on disk', () => {
  test('gives back what was appended, over rotated segments', async () => {
    const folder = await newFolder()
    const writer = await openWriter(folder, 5, firstTimeline, 500)
    const all = Array.from({ length: 20 }, (_, index) => 10 + index * 10)
    for (const end of all) await put(writer, end)
    expect((await readdir(folder.redoFolderOf(1))).length).toBeGreaterThan(3)
    expect(await ends(folder)).toEqual(all)
    expect(await ends(folder, firstTimeline, 50, 100)).toEqual([60, 70, 80, 90, 100])
    const read: RedoTransaction[] = []
    for await (const one of readRedo(folder, { history: firstTimeline, to: lsn(10) })) read.push(one)
    expect(read).toEqual([transaction(10)])
    expect((await relationShapes(folder, firstTimeline)).get('public.payroll_runs')).toEqual(shape)
  })

  test('A4: does not take a transaction twice', async () => {
    const folder = await newFolder()
    await put(await openWriter(folder), 10, 20)
    await put(await openWriter(folder), 10, 20, 30)
    expect(await ends(folder)).toEqual([10, 20, 30])
    const names = await readdir(folder.redoFolderOf(1))
    const files = await Promise.all(names.map((name) => readFile(join(folder.redoFolderOf(1), name))))
    const stored = files
      .flatMap((bytes) => [...readRecords(bytes, 'test')])
      .filter(({ kind }) => kind === 'transaction')
    expect(stored).toHaveLength(3)
  })

  test('A4: takes nothing from a writer that was replaced, whatever it still writes, and loses nothing of the next one', async () => {
    const folder = await newFolder()
    const old = await openWriter(folder, 0, firstTimeline, 300)
    await put(old, 10, 20)
    const next = await openWriter(folder)
    await put(next, 30, 40)
    // The old one did not notice. It goes on at the same place, with its own idea of what comes.
    await put(old, 35, 36, 37, 38)
    await put(old, 50, 60)
    await put(next, 70)
    expect(await ends(folder)).toEqual([10, 20, 30, 40, 70])
  })

  test('A4: two writers that began at the same place cannot both go on', async () => {
    const folder = await newFolder()
    const [one, two] = [await openWriter(folder), await openWriter(folder)]
    await put(one, 10)
    await expect(put(two, 11)).rejects.toThrow('EEXIST')
    expect(await ends(folder)).toEqual([10])
  })

  test('goes on behind a tail that was cut at any byte', async () => {
    const folder = await newFolder()
    await put(await openWriter(folder), 10)
    const file = join(folder.redoFolderOf(1), (await readdir(folder.redoFolderOf(1)))[0] ?? '')
    const { length: whole } = await readFile(file)
    const first = await openWriter(folder)
    await first.close()
    const longer = Buffer.concat([
      await readFile(file),
      new RedoEncoder().encode({ kind: 'through', lsn: lsn(99), closedTimestamp: hlc(1) }),
    ])
    for (let length = whole; length <= longer.length; length += 7) {
      await writeFile(file, longer.subarray(0, length))
      expect(await ends(folder)).toEqual([10])
    }
    await put(await openWriter(folder, 10), 20)
    expect(await ends(folder)).toEqual([10, 20])
  })

  test('A4: says where a hole is when the server was told more than is there', async () => {
    const folder = await newFolder()
    await put(await openWriter(folder), 10)
    const writer = await openWriter(folder, 50)
    expect(writer.hole).toEqual({ from: lsn(10), to: lsn(50) })
    await put(writer, 60)
    await expect(ends(folder, firstTimeline, 0)).rejects.toThrow('between 0/A and 0/32')
    expect(await ends(folder, firstTimeline, 0, 10)).toEqual([10])
    expect(await ends(folder)).toEqual([60])
    const stream = { closedTimestamp: 0n, from: 50n, clockAtFrom: 50n }
    expect(await redoThrough(folder, firstTimeline)).toEqual({ ...stream, lsn: 60n })
    // Whoever goes on reads a later clock, and keeps the one that belongs to the place.
    await put(await openWriter(folder, 60), 70)
    expect(await redoThrough(folder, firstTimeline)).toEqual({ ...stream, lsn: 70n })
  })

  test('A4: is refused to a reader who wants more than there is', async () => {
    const folder = await newFolder()
    await expect(ends(folder, firstTimeline, 0, 10)).rejects.toThrow('redo stream')
    expect(await ends(folder)).toEqual([])
    await put(await openWriter(folder, 5), 10)
    await expect(ends(folder, firstTimeline, 5, 11)).rejects.toThrow('between 0/A and 0/B')
    await expect(ends(folder, firstTimeline, 4, 10)).rejects.toThrow('between 0/4 and 0/5')
  })

  test('keeps decisions, the highest stamp and the closed timestamp over writers that bring nothing', async () => {
    const folder = await newFolder()
    const id = '01900000-0000-7000-8000-000000000001' as TransactionId
    const writer = await openWriter(folder)
    const after = { transaction_id: id, outcome: 'COMMITTED', commit_timestamp: '80' }
    const decisionShape = {
      ...shape,
      schema: 'holdfast',
      table: 'decision',
      columns: Object.keys(after).map((name) => ({ name, type: 'text', sequence: null })),
    }
    const change = { op: 'insert', relation: 'holdfast.decision', after } as const
    writer.append({ ...transaction(10), changes: [change] }, [decisionShape])
    writer.appendThrough(lsn(12), hlc(70))
    await writer.flush()
    await (await openWriter(folder)).close()
    const last = await openWriter(folder)
    expect([...last.attribution.decided]).toEqual([[id, 80n]])
    last.appendThrough(lsn(12), hlc(71))
    await last.flush()
    expect(await redoThrough(folder, firstTimeline)).toEqual({
      lsn: 12n,
      closedTimestamp: 71n,
      from: 0n,
      clockAtFrom: 0n,
    })
    expect([...(await openWriter(folder)).attribution.decided]).toEqual([[id, 80n]])
    const links = await Promise.all((await listRedoFiles(folder, firstTimeline)).map((file) => positionAt(file)))
    const hex = (bytes: Uint8Array | null) => bytes && Buffer.from(bytes).toString('hex')
    expect(links.slice(1).map(({ header }) => hex(header.previous))).toEqual(
      links.slice(0, -1).map(({ digest }) => hex(digest)),
    )
  })
})

describe('over a promotion', () => {
  const promoted: TimelineHistory = { timeline: 2, parents: [{ timeline: 1, switchLsn: lsn(35) }] }

  test('the stream goes on where the new timeline begins, without what the old one lost', async () => {
    const folder = await newFolder()
    await put(await openWriter(folder), 10, 20, 30, 40, 50)
    const writer = await openWriter(folder, 20, promoted)
    expect(writer.hole).toBeNull()
    expect(writer.through).toBe(35n)
    await put(writer, 30, 42, 60)
    expect(await ends(folder, promoted)).toEqual([10, 20, 30, 42, 60])
    expect(await ends(folder, firstTimeline)).toEqual([10, 20, 30, 40, 50])
  })

  test('takes from the new primary what the old one had not sent', async () => {
    const folder = await newFolder()
    const old = await openWriter(folder)
    await put(old, 10)
    const writer = await openWriter(folder, 10, promoted)
    await put(writer, 20, 30, 60)
    // The old primary’s archiver lives on for a moment.
    await put(old, 20, 30, 40)
    expect(await ends(folder, promoted)).toEqual([10, 20, 30, 60])
  })
})

describe('a segment', () => {
  const records = (bytes: Buffer) =>
    [...readRecords(bytes, 'test')].map((record) => ({ ...record, digest: Buffer.from(record.digest).toString('hex') }))

  test('survives any bytes of text, and every op', () => {
    const anyText = fc.option(fc.string({ unit: 'binary' }))
    const anyRow = fc.record({ id: anyText, note: anyText })
    const relation = 'public.payroll_runs'
    const anyChange = fc.oneof(
      anyRow.map((after) => ({ op: 'insert', relation, after }) as const),
      fc.tuple(anyRow, anyRow).map(([before, after]) => ({ op: 'update', relation, before, after }) as const),
      anyRow.map((before) => ({ op: 'delete', relation, before }) as const),
      fc.record({ id: anyText }).map((before) => ({ op: 'delete', relation, before }) as const),
      fc.constant({ op: 'truncate', relation } as const),
    )
    fc.assert(
      fc.property(
        fc.array(anyChange, { maxLength: 8 }),
        fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
        (changes, end) => {
          const encoder = new RedoEncoder()
          const header = { shard, systemId: '7', timeline: 1, start: lsn(0), from: lsn(0), previous: null }
          const state = {
            clockAtFrom: hlc(9),
            closedTimestamp: hlc(0),
            highestStamp: hlc(0),
            decided: [],
            shapes: [shape],
          }
          const written = { ...transaction(7), endLsn: end as Lsn, changes }
          const bytes = Buffer.concat([
            redoMagic,
            encoder.encode({ kind: 'header', ...header, ...state }),
            encoder.encode({ kind: 'transaction', transaction: written, shapes: changes.map(() => shape) }),
          ])
          const [first, second] = records(bytes)
          expect(first).toMatchObject({ kind: 'header', ...header, ...state })
          expect(second).toMatchObject({ kind: 'transaction', transaction: written })
        },
      ),
      { numRuns: 30 },
    )
  })

  test('shows every changed bit: nothing behind it is read', async () => {
    const folder = await newFolder()
    await put(await openWriter(folder), 10, 20, 30)
    const bytes = await readFile(join(folder.redoFolderOf(1), (await readdir(folder.redoFolderOf(1)))[0] ?? ''))
    const whole = records(bytes).map(({ kind }) => kind)
    expect(whole).toEqual(['header', 'shape', 'transaction', 'transaction', 'transaction'])
    for (let at = 0; at < bytes.length; at += 3) {
      const changed = Buffer.from(bytes)
      changed[at] = (changed[at] ?? 0) ^ (1 << (at % 8))
      let read: unknown[] = []
      try {
        read = records(changed)
      } catch (error) {
        expect(String(error)).toMatch(/segment of the redo stream|readable header/)
      }
      const expected = records(bytes)
      expect(read.length).toBeLessThan(expected.length)
      expect(read).toEqual(expected.slice(0, read.length))
    }
  })
})
