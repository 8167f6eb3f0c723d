import { afterAll, beforeAll, expect, test } from 'vitest'
import { archiveOf, currentLsn, redoUpTo, type RunningRedo } from '../../test/support/archive.ts'
import { FoundedShard } from '../../test/support/founded-shard.ts'
import type { Connection } from '../postgres/connection.ts'
import type { RowChange } from './redo-transaction.ts'

/** A7: tables that change while they are streamed, as an upgrade changes them: in the middle of a transaction. */

const relation = 'public.reshaped'

let shard: FoundedShard
let admin: Connection
let redo: RunningRedo

beforeAll(async () => {
  shard = await FoundedShard.open('quorum')
  admin = shard.admin
  redo = shard.stream()
  await shard.streaming(1)
  await admin.script(`
    create table reshaped (id bigint primary key, first text, second text);
    alter table reshaped replica identity full;
    alter publication holdfast_redo add table reshaped`)
})

afterAll(async () => {
  await redo.stop()
  await shard[Symbol.asyncDispose]()
})

/** What the stream has of the table behind a position, in the order of the log. */
async function streamedSince(from: bigint): Promise<RowChange[]> {
  const to = await currentLsn(admin)
  const { rows } = await admin.query<{ t: string }>('select holdfast.tick(holdfast.wall_hlc())::text as t')
  await admin.query('select holdfast.publish_closed($1)', [rows[0]?.t])
  const transactions = await redoUpTo(archiveOf(shard.root), to)
  return transactions
    .filter(({ endLsn }) => endLsn > from && endLsn <= to)
    .flatMap(({ changes }) => changes.filter((change) => change.relation === relation))
}

test('A7: each row has the shape that its table had then, also within one transaction', async () => {
  const from = await currentLsn(admin)
  await admin.script(`
    begin;
    insert into reshaped values (1, 'a', 'b');
    alter table reshaped rename first to renamed;
    update reshaped set second = 'c';
    alter table reshaped drop second;
    alter table reshaped add third int default 3;
    update reshaped set third = 4;
    delete from reshaped;
    commit`)
  const changes: RowChange[] = [
    { op: 'insert', relation, after: { id: '1', first: 'a', second: 'b' } },
    {
      op: 'update',
      relation,
      before: { id: '1', renamed: 'a', second: 'b' },
      after: { id: '1', renamed: 'a', second: 'c' },
    },
    {
      op: 'update',
      relation,
      before: { id: '1', renamed: 'a', third: '3' },
      after: { id: '1', renamed: 'a', third: '4' },
    },
    { op: 'delete', relation, before: { id: '1', renamed: 'a', third: '4' } },
  ]
  expect(await streamedSince(from)).toEqual(changes)
  const columns = async () =>
    (await archiveOf(shard.root).relationShapes()).get(relation)?.columns.map(({ name }) => name)
  expect(await columns()).toEqual(['id', 'renamed', 'third'])

  // Another writer, with a segment of its own, whose header has the last shape.
  await redo.stop()
  redo = shard.stream()
  await admin.query(`insert into reshaped values (2, 'x', 5)`)
  changes.push({ op: 'insert', relation, after: { id: '2', renamed: 'x', third: '5' } })
  expect(await streamedSince(from)).toEqual(changes)
  expect(await columns()).toEqual(['id', 'renamed', 'third'])
})

test('A7: a table that is made anew within a transaction, under the same name, is another', async () => {
  const from = await currentLsn(admin)
  await admin.script(`
    begin;
    insert into reshaped values (3, 'y', 6);
    drop table reshaped;
    create table reshaped (other boolean);
    alter table reshaped replica identity full;
    alter publication holdfast_redo add table reshaped;
    insert into reshaped values (true);
    commit`)
  expect(await streamedSince(from)).toEqual([
    { op: 'insert', relation, after: { id: '3', renamed: 'y', third: '6' } },
    { op: 'insert', relation, after: { other: 't' } },
  ])
})
