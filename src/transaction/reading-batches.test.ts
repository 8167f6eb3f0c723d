import { describe, expect, test } from 'vitest'
import { looksLikeReading, ReadingBatches } from './reading-batches.ts'

describe('a text that reads', () => {
  test.each([
    'select balance_cents from treasury_accounts where id = $1',
    '  (select 1) union all (values (2))',
    'with big as materialized (select * from holds where cents > 10) select count(*) from big',
    'table holds',
    'show timezone',
    'select \'insert into holds for update\' as text, "update" from holds -- for update',
    'select substring(name from 1 for 3) from holds',
    // What a function does, no text tells.
    'select add_hold($1)',
  ])('%s', (sql) => expect(looksLikeReading(sql)).toBe(true))
})

describe('a text that writes or locks, or is not understood', () => {
  test.each([
    'insert into holds values (1)',
    'update holds set cents = 1',
    'delete from holds',
    'merge into holds using runs on true when matched then delete',
    'with gone as (delete from holds returning *) select * from gone',
    'with new as (select 1) insert into holds select * from new',
    'select * into copy from holds',
    'select * from holds for update',
    'select * from holds FOR /* which */ NO KEY update skip locked',
    'select * from holds for share',
    'select * from (select * from holds for key share) h',
    'lock table holds',
    'call add_hold()',
    'explain analyze delete from holds',
    'fetch all from c',
    'select "unfinished',
    '',
  ])('%s', (sql) => expect(looksLikeReading(sql)).toBe(false))
})

const batch = (...texts: string[]) => texts.map((text) => ({ statement: { text }, rows: undefined }))

test('a batch reads when each of its texts does', () => {
  const batches = new ReadingBatches()
  expect(batches.looksLikeReading([])).toBe(true)
  expect(batches.looksLikeReading(batch('select 1', 'select 2'))).toBe(true)
  expect(batches.looksLikeReading(batch('select 1', 'delete from holds'))).toBe(false)
})

test('Q6: a batch that left a trace is known by its texts, as long as there are not many', () => {
  const batches = new ReadingBatches()
  batches.noteTrace(batch('select f()', 'select 1'))
  expect(batches.looksLikeReading(batch('select f()', 'select 1'))).toBe(false)
  expect(batches.looksLikeReading(batch('select 1'))).toBe(true)
  for (let n = 0; n < 500; n++) batches.noteTrace(batch(`select f(${n})`))
  expect(batches.looksLikeReading(batch('select f()', 'select 1'))).toBe(true)
  expect(batches.looksLikeReading(batch('select f(499)'))).toBe(false)
})
