import fc from 'fast-check'
import { describe, expect, it, test } from 'vitest'
import { lexSql } from './sql-lexer.ts'
import { guardBatched, guardStatement } from './statement-guard.ts'

const accepts = (sql: string) => expect(guardStatement(sql), sql).toEqual({ allowed: true })
const refuses = (sql: string) => expect(guardStatement(sql).allowed, sql).toBe(false)

describe('statements of an application', () => {
  it('pass when they read and write rows', () => {
    const statements = [
      'select 1',
      '  -- why\n /* a /* nested */ comment */ SELECT now()',
      '(select 1) union (select 2);',
      "insert into runs values ($1, 'it''s; commit')",
      'with gone as (delete from runs returning id) insert into log select id from gone',
      'merge into holds h using runs r on h.run = r.id when matched then update set cents = 0',
      'update t set "commit" = $1, "into" = 2 where "hold" = $$ ; rollback $$',
      'values (1), (2)',
      'table runs',
      'explain (analyze, format json) select 1',
      'explain analyze verbose (select 1)',
      'savepoint a',
      'release savepoint a',
      'rollback to savepoint a',
      'ROLLBACK WORK TO a',
      'set constraints all deferred',
      "set local lock_timeout = '1s'",
      "SET LOCAL statement_timeout TO '5s'",
      'lock table runs in share mode',
      'declare c cursor for select 1',
      'fetch all from c',
      'select pg_advisory_xact_lock(1, 2)',
      "select E'\\';commit;\\''",
      'select $a$ $b$; commit; $a$',
      'select set_config from settings',
      'select 1 as "select"; -- end',
    ]
    for (const sql of statements) accepts(sql)
  })

  it('are refused when they control the transaction', () => {
    const statements = [
      'begin',
      'START TRANSACTION',
      'commit',
      'COMMIT AND CHAIN',
      'end',
      'abort',
      'rollback',
      'rollback work',
      'rollback and chain',
      "prepare transaction 'x'",
      "commit prepared 'x'",
      "rollback prepared 'x'",
      '/* select */ commit',
      '-- select\rcommit',
      '(((commit',
      'select 1; commit',
      "select E'\\\\'; commit; --'",
      'set transaction isolation level serializable',
    ]
    for (const sql of statements) refuses(sql)
  })

  it('are refused when they could change the role or a setting', () => {
    const statements = [
      'set role holdfast_gateway',
      'SET LOCAL ROLE none',
      'set session authorization default',
      'reset role',
      'reset all',
      'discard all',
      'set synchronous_commit = off',
      'set local synchronous_commit = off',
      "set local holdfast.tenant = 'acme-de'",
      'set local session_replication_role = replica',
      'set local row_security to off',
      'set local search_path = evil',
      'set local lock_timeout from current',
      "select set_config('role', 'none', true)",
      `select "set_config"('role', 'none', true)`,
      "select pg_catalog.set_config /* here */ ('role', 'none', true)",
      "update pg_settings set setting = 'off' where name = 'synchronous_commit'",
      "select query_to_xml('select 1', true, true, '')",
      'do $$ begin perform 1; end $$',
      'explain analyze execute x',
      'explain analyze create table t as select 1',
    ]
    for (const sql of statements) refuses(sql)
  })

  it('HZ-X6: are refused when their branch could not be prepared', () => {
    const statements = [
      'create temp table t (x int)',
      'create temporary table t as select 1',
      'select 1 into temp t',
      'with a as (select 1) select * into t from a',
      'listen x',
      'unlisten *',
      "notify x, 'y'",
      "select pg_notify('x', 'y')",
      'select pg_export_snapshot()',
      'declare c cursor with hold for select 1',
      'select pg_advisory_lock(1)',
    ]
    for (const sql of statements) refuses(sql)
  })

  it('are refused when they are no single readable statement', () => {
    const statements = [
      '',
      ' ; ',
      '-- only a comment',
      "select 'open",
      'select "open',
      'select $$ open',
      '/* open',
      'select U&"\\0073et_config"(1)',
      'select 1\0',
      'copy runs from stdin',
      'vacuum',
      'truncate runs',
      'create table t ()',
      '"select" 1',
    ]
    for (const sql of statements) refuses(sql)
  })

  it('say what to do instead', () => {
    expect(guardStatement('notify x')).toEqual({
      allowed: false,
      reason: 'notify is refused',
      hint: 'use tx.emit: events leave through the outbox',
    })
  })
})

describe('the lexer', () => {
  it('never sees inside quotations and comments', () => {
    const inside = fc.string({ unit: fc.constantFrom('a', ' ', ';', '-', '/', '*', '(', '\n', 'commit', '\\', 'é') })
    fc.assert(
      fc.property(inside, (text) => {
        const quotations = [
          `'${text.replaceAll('*/', '')}'`,
          `E'${text.replaceAll('\\', '\\\\')}'`,
          `$q$${text}$q$`,
          `"${text}"`,
          `/*${text.replaceAll('/', ' ').replaceAll('*', ' ')}*/ 1`,
          `--${text.replaceAll('\n', ' ')}\n1`,
        ]
        for (const quotation of quotations) {
          const tokens = lexSql(`select ${quotation} x`)
          expect(tokens, quotation).toHaveLength(3)
        }
      }),
    )
  })

  it('is total: any text is tokens or a reason', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (text) => {
        const result = lexSql(text)
        expect(Array.isArray(result) || 'reason' in result).toBe(true)
      }),
    )
  })

  it('takes time in proportion to the text', () => {
    const long = 200_000
    for (const text of ["'".repeat(long + 1), `E'${'\\'.repeat(long)}`, '('.repeat(long), '/*'.repeat(long)]) {
      const result = lexSql(text)
      expect(Array.isArray(result) || 'reason' in result).toBe(true)
    }
  })
})

test('a batch takes no savepoints: nobody sees what failed in between', () => {
  for (const sql of ['savepoint a', 'release savepoint a', 'rollback to a', '/* x */ Savepoint a']) {
    expect(guardBatched(sql), sql).toMatchObject({
      allowed: false,
      reason: expect.stringContaining('in a batch') as string,
    })
  }
  expect(guardBatched('select 1')).toEqual({ allowed: true })
  expect(guardBatched('commit')).toMatchObject({ allowed: false, reason: 'commit is refused' })
})
