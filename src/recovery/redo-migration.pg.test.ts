import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import type { FreshDatabase } from '../../test/support/database.ts'
import { freshDatabase } from '../../test/support/database.ts'
import { history, insert, payroll, unattributed, update } from '../../test/support/redo-values.ts'
import type { RelationShape, RowChange } from '../archive/redo-transaction.ts'
import { migrationRelation } from '../archive/redo-transaction.ts'
import { Connection } from '../postgres/connection.ts'
import type { SqlFile } from '../postgres/release.ts'
import { checksumOf } from '../postgres/release.ts'
import type { RedoStep } from './cut.ts'
import { redo } from './redo.ts'
import { moveSequences } from './sequences.ts'

/** R10, and what lies before a change, redone with what is known from behind it. */

const owner = 'domain payroll'
const relation = 'public.shaped'
const renaming: SqlFile = {
  name: '0002-renaming.sql',
  // By the search path and the triggers that it ran with.
  text: `alter table shaped rename id to code; alter table shaped add serial bigserial; update shaped set first = 'moved';`,
}
const files =
  (...known: SqlFile[]) =>
  (of: string) =>
    Promise.resolve(of === owner ? known : [])

/** At the end of the stream. */
const last: RelationShape = {
  schema: 'public',
  table: 'shaped',
  columns: [
    { name: 'code', type: 'bigint', sequence: null },
    { name: 'first', type: 'text', sequence: null },
    { name: 'serial', type: 'bigint', sequence: 'public.shaped_serial_seq' },
  ],
  replicaIdentity: 'full',
  primaryKey: ['code'],
  foreignKeys: [],
}
const shapes = new Map([[relation, last]])

const migration = (checksum = checksumOf([renaming])) =>
  insert(migrationRelation, { owner, name: renaming.name, checksum, applied_at: '2026-04-02 10:00:00+00' })

let database: FreshDatabase
let admin: Connection

beforeAll(async () => {
  database = await freshDatabase()
})

beforeEach(async () => {
  admin = await Connection.connect(database.target(), 5_000)
  await admin.script(`
    drop schema if exists holdfast_restore cascade;
    drop table if exists public.shaped;
    delete from public.holdfast_migration where owner = '${owner}';
    create table public.shaped (id bigint primary key, first text)`)
})

afterEach(() => admin.release())
afterAll(() => database.drop())

const steps = (...commits: RowChange[][]): RedoStep[] =>
  history(
    payroll,
    commits.map((changes) => unattributed(0n, changes)),
  ).transactions.map((transaction) => ({ transaction, changes: transaction.changes }))

const rows = async () => (await admin.query('select * from public.shaped')).rows

test('R10: a migration is run where it stands, in place of its rows, and rows of the new shape go on from there', async () => {
  const all = steps(
    [insert(relation, { id: '1', first: 'a' })],
    [update(relation, { id: '1', first: 'a' }, { first: 'b' })],
    [update(relation, { code: '1', first: 'b', serial: '1' }, { first: 'moved' }), migration()],
    [update(relation, { code: '1', first: 'moved', serial: '1' }, { first: 'c' })],
  )
  expect(await redo(admin, all, shapes, files(renaming))).toMatchObject({ transactions: 4 })
  expect(await rows()).toEqual([{ code: '1', first: 'c', serial: '1' }])
  expect(await redo(admin, all, shapes, files(renaming))).toMatchObject({ transactions: 0 })
  const known = await admin.query('select name from public.holdfast_migration where owner = $1', [owner])
  expect(known.rows).toEqual([{ name: renaming.name }])
  const { rows: settings } = await admin.query(`select current_setting('session_replication_role') as role`)
  expect(settings).toEqual([{ role: 'replica' }])
})

test.each([
  ['whose file is not known', migration(), files(), 'is not known here'],
  ['whose file is another now', migration('0'.repeat(64)), files(renaming), 'is not the one that ran'],
  [
    'that the server refuses',
    insert(migrationRelation, {
      owner,
      name: '0003.sql',
      checksum: checksumOf([{ name: '0003.sql', text: 'alter table missing add x int' }]),
    }),
    files({ name: '0003.sql', text: 'alter table missing add x int' }),
    '42P01',
  ],
])('R10: a migration %s stops the redo, and nothing of it is there', async (_, row, known, why) => {
  const all = steps([insert(relation, { id: '1', first: 'a' })], [row], [insert(relation, { code: '2', serial: '1' })])
  await expect(redo(admin, all, shapes, known)).rejects.toMatchObject({
    code: 'redo_conflict',
    message: expect.stringContaining(why),
  })
  expect(await rows()).toEqual([{ id: '1', first: 'a' }])
})

test('R4: what lies before a change of the key is redone on a server from before it, and sequences of later stay out', async () => {
  const all = steps(
    [insert(relation, { id: '1', first: 'a' }), insert(relation, { id: '2', first: 'a' })],
    [update(relation, { id: '1', first: 'a' }, { first: 'b' })],
  )
  expect(await redo(admin, all, shapes)).toMatchObject({ transactions: 2 })
  expect((await rows()).toSorted((a, b) => Number(a['id']) - Number(b['id']))).toEqual([
    { id: '1', first: 'b' },
    { id: '2', first: 'a' },
  ])
  const read = async function* () {
    for (const { transaction } of all) yield transaction
  }
  await moveSequences(admin, read, shapes)
})
