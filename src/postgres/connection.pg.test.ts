import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { FreshDatabase } from '../../test/support/database.ts'
import { freshDatabase } from '../../test/support/database.ts'
import type { StatementOutcome } from './statement.ts'
import { Connection } from './connection.ts'
import { ConnectionLost, ServerError } from './failure.ts'
import type { DriverClient } from './driver.ts'
import { sqlState } from './sqlstate.ts'

let database: FreshDatabase
let connection: Connection
let observer: Connection

beforeAll(async () => {
  database = await freshDatabase()
  observer = await Connection.connect(database.target(), 5_000)
  await observer.query('create table item (id int primary key)')
})

afterAll(async () => {
  observer.release()
  await database.drop()
})

beforeEach(async () => {
  await observer.query('truncate item')
  connection = await Connection.connect(database.target(), 5_000)
})

afterEach(() => {
  connection.release()
})

describe('a flight', () => {
  test('answers every statement in order, with rows, counts and tags', async () => {
    const outcomes = await connection.flight([
      { text: 'begin' },
      { text: 'insert into item select generate_series($1::int, $2::int)', values: [1, 3] },
      { text: 'select id from item order by id', rowMode: 'array' },
      { text: 'commit' },
    ])
    expect(outcomes.map(tagOf)).toEqual(['BEGIN', 'INSERT', 'SELECT', 'COMMIT'])
    expect(outcomes[1]).toMatchObject({ rowCount: 3 })
    expect(outcomes[2]).toMatchObject({ rows: [[1], [2], [3]], rowCount: 3 })
    expect(await connection.flight([])).toEqual([])
  })

  test('trap 1: after a BEGIN that fails the rest autocommits, and the outcome of BEGIN says so', async () => {
    const outcomes = await connection.flight([
      { text: 'begin isolation level sometimes' },
      { text: 'insert into item values (1)' },
      { text: 'commit' },
    ])
    expect(outcomes.map(tagOf)).toEqual(['42601', 'INSERT', 'COMMIT'])
    expect(warningsOf(outcomes[2])).toEqual(['there is no transaction in progress'])
    expect(await countItems()).toBe(1)
  })

  test('D1, trap 2: a value that cannot be serialised rejects before anything was sent', async () => {
    const circular: Record<string, unknown> = {}
    circular['self'] = circular
    for (const value of [circular, { toPostgres: () => ({}).valueOf.call(undefined) }, { big: 1n }]) {
      const flight = connection.flight([
        { text: 'insert into item values (1)' },
        { text: 'select $1::text', values: [value] },
        { text: 'commit' },
      ])
      await expect(flight).rejects.toThrow(TypeError)
    }
    await expect(connection.flight([{ text: 'insert into item values (1) \0 returning id' }])).rejects.toThrow(
      'zero byte',
    )
    const many = { text: 'select 1', values: Array.from({ length: 65_536 }, () => 1) }
    await expect(connection.flight([{ text: 'insert into item values (1)' }, many])).rejects.toThrow('65535')
    expect(await countItems()).toBe(0)
    expect(connection.status).toBe('idle')
  })

  test('D2, trap 3: a statement name belongs to one text, which is prepared once', async () => {
    await connection.flight([{ text: 'select 1' }, { text: 'select 2' }, { text: 'select 1' }])
    await connection.query('select 1')
    const { rows } = await connection.query('select name, statement from pg_prepared_statements order by statement')
    expect(rows.map((row) => row['statement']).slice(0, 2)).toEqual(['select 1', 'select 2'])
    expect(new Set(rows.map((row) => row['name'])).size).toBe(rows.length)
  })

  test('a text that is sent once is not kept by the server, and is one statement all the same', async () => {
    const outcomes = await connection.flight([
      { text: 'select 1 as one', once: true },
      { text: 'select 1; commit', once: true },
      { text: 'select 2 as two', once: true },
    ])
    expect(outcomes.map(tagOf)).toEqual(['SELECT', '42601', 'SELECT'])
    const { rows } = await connection.query('select statement from pg_prepared_statements')
    expect(rows.map((row) => row['statement'])).toEqual(['select statement from pg_prepared_statements'])
  })

  test('D3, trap 4, HZ-P2: COMMIT and PREPARE TRANSACTION of a failed transaction answer ROLLBACK', async () => {
    for (const end of ['commit', `prepare transaction 'trap 4'`]) {
      const outcomes = await connection.flight([
        { text: 'begin' },
        { text: 'insert into item values (1)' },
        { text: 'select 1 / 0' },
        { text: 'select 1' },
        { text: end },
      ])
      expect(outcomes.map(tagOf)).toEqual(['BEGIN', 'INSERT', '22012', sqlState.inFailedTransaction, 'ROLLBACK'])
    }
    expect(await countItems()).toBe(0)
  })

  test('D4, trap 5: the deadline closes the connection, and what was sent takes effect later', async () => {
    const lock = await Connection.connect(database.target(), 5_000)
    await lock.flight([{ text: 'begin' }, { text: 'lock table item' }])
    const late = await rejectionOf(
      connection.flight([{ text: 'select 1' }, { text: 'insert into item values (1)' }], 50),
    )
    expect(late).toMatchObject({ sent: true, outcomes: [{ ok: true, rows: [{ '?column?': 1 }] }] })
    expect(connection.status).toBe('closed')
    expect(await rejectionOf(connection.flight([{ text: 'select 1' }]))).toMatchObject({ sent: false })
    await lock.query('commit')
    lock.release()
    await expect.poll(countItems, { timeout: 20_000 }).toBe(1)
  })

  test('is written when the kernel has it: who ends there has sent all of it, in one piece with what leaves at once', async () => {
    let writes = 0
    const { stream } = (connection.session as DriverClient).connection
    // What a stream hands to the system at a time: one buffer, or those that were held together.
    const [write, writev] = [stream._write.bind(stream), stream._writev?.bind(stream)]
    stream._write = (...args) => {
      writes++
      write(...args)
    }
    stream._writev = (...args) => {
      writes++
      writev?.(...args)
    }
    const ends = async () => connection.destroy()
    const answers = await connection.inOneWrite(() =>
      Promise.allSettled([
        connection.flight([{ text: 'insert into item values (1)' }], 5_000, ends),
        connection.flight([{ text: 'select 1' }]),
      ]),
    )
    expect(answers).toMatchObject([{ reason: { sent: true } }, { reason: { sent: true } }])
    await expect.poll(countItems, { timeout: 5_000 }).toBe(1)
    expect(writes).toBe(1)
  })

  test('tells what was written before its answer, and waits; what failed there is its failure, and it is lost untold', async () => {
    const order: string[] = []
    const step = async () => {
      await observer.query('select pg_sleep(0.05)')
      order.push('written')
    }
    await connection.flight([{ text: 'select 1' }], 5_000, step).then(() => order.push('answered'))
    expect(order).toEqual(['written', 'answered'])
    const stopped = new Error('stopped')
    await expect(connection.flight([{ text: 'select 1' }], 5_000, () => Promise.reject(stopped))).rejects.toBe(stopped)
    const lost = connection.flight([{ text: 'select 1' }], 5_000, async () => void order.push('never'))
    connection.destroy()
    await expect(lost).rejects.toBeInstanceOf(ConnectionLost)
    expect(order).toEqual(['written', 'answered'])
  })

  test('trap 6: COPY FROM STDIN breaks the flight off at once, and nothing behind it takes effect', async () => {
    const flight = connection.flight([
      { text: 'begin' },
      { text: 'copy item from stdin' },
      { text: 'insert into item values (1)' },
      { text: 'commit' },
    ])
    expect(await rejectionOf(flight)).toMatchObject({ sent: true, message: expect.stringContaining('COPY') })
    await expect.poll(activeBackends, { timeout: 20_000 }).toBe(0)
    expect(await countItems()).toBe(0)

    const alone = await Connection.connect(database.target(), 5_000)
    await expect(alone.query('copy item from stdin')).rejects.toMatchObject({ sent: true })
  })

  test('trap 7: one text is one statement, and the transaction status after a flight is the server’s', async () => {
    expect(await connection.flight([{ text: 'begin' }, { text: 'select 1; commit' }])).toMatchObject([
      { ok: true },
      { ok: false, error: { sqlState: '42601' } },
    ])
    expect(connection.status).toBe('failed')
    await connection.query('rollback')
    expect(connection.status).toBe('idle')
    await connection.flight([{ text: 'begin' }])
    expect(connection.status).toBe('open')
    await connection.query('commit')
    expect(connection.status).toBe('idle')
  })

  test('warnings belong to the statement that caused them, in one flight and over several', async () => {
    const warn = (text: string) => ({ text: `do $$ begin raise warning '${text}'; end $$` })
    const [first, second] = await Promise.all([
      connection.flight([{ text: 'select 1' }, warn('one'), { text: 'select 1 / 0' }, { text: 'select 2' }]),
      connection.flight([warn('two'), { text: `do $$ begin raise notice 'no warning'; end $$` }, warn('three')]),
    ])
    expect(first.map(warningsOf)).toEqual([[], ['one'], [], []])
    expect(second.map(warningsOf)).toEqual([['two'], [], ['three']])
  })

  test('HZ-S1: no setting of a database hides a warning', async () => {
    await observer.query(`alter database ${database.name} set client_min_messages = error`)
    const quiet = await Connection.connect(database.target(), 5_000)
    const [outcome] = await quiet.flight([{ text: 'commit' }])
    expect(warningsOf(outcome)).toEqual(['there is no transaction in progress'])
    quiet.release()
    await observer.query(`alter database ${database.name} reset client_min_messages`)
  })

  test('no setting of a database changes the form in which values are written', async () => {
    const styles = { DateStyle: 'German', IntervalStyle: 'iso_8601', extra_float_digits: '0' }
    for (const [name, value] of Object.entries(styles)) {
      await observer.query(`alter database ${database.name} set ${name} = '${value}'`)
    }
    const styled = await Connection.connect(database.target(), 5_000)
    const { rows } = await styled.query(
      `select date '2026-04-01'::text as day, interval '1 day'::text as span, (0.1::float8 + 0.2::float8)::text as sum`,
    )
    expect(rows).toEqual([{ day: '2026-04-01', span: '1 day', sum: '0.30000000000000004' }])
    styled.release()
    for (const name of Object.keys(styles)) await observer.query(`alter database ${database.name} reset ${name}`)
  })

  test('a terminated backend: what was answered stays answered, the rest is unknown', async () => {
    const flight = connection.flight([
      { text: 'insert into item values (1)' },
      { text: 'select pg_terminate_backend(pg_backend_pid())' },
      { text: 'insert into item values (2)' },
    ])
    const lost = await rejectionOf(flight)
    expect(lost).toBeInstanceOf(ConnectionLost)
    expect(lost).toMatchObject({ sent: true, outcomes: [{ ok: true, tag: 'INSERT' }] })
    expect(lost).toMatchObject({ cause: { code: sqlState.adminShutdown } })
    expect(await countItems()).toBe(1)
  })

  test('a connection that was terminated while idle says that nothing was sent', async () => {
    await observer.query('select pg_terminate_backend($1)', [connection.serverProcessId])
    await expect.poll(() => connection.status, { timeout: 20_000 }).toBe('closed')
    expect(await rejectionOf(connection.flight([{ text: 'select 1' }]))).toMatchObject({ sent: false })
  })

  test('a cancelled statement is refused and the connection goes on', async () => {
    const flight = connection.flight([{ text: 'select pg_sleep(600)' }, { text: 'select 1' }])
    await expect.poll(activeBackends, { timeout: 20_000 }).toBe(1)
    await observer.query('select pg_cancel_backend($1)', [connection.serverProcessId])
    expect((await flight).map(tagOf)).toEqual([sqlState.queryCanceled, 'SELECT'])
    expect(connection.status).toBe('idle')
  })

  test('an own type parser and an array row mode reach the rows of their statement alone', async () => {
    const types = { getTypeParser: () => (value: string) => `<${value}>` }
    const [mine, plain] = await connection.flight([
      { text: 'select 1 as n', types },
      { text: 'select 1 as n', rowMode: 'array' },
    ])
    expect(mine).toMatchObject({ rows: [{ n: '<1>' }] })
    expect(plain).toMatchObject({ rows: [[1]] })
  })

  test('own type parsers that cannot be had lose their flight, and not the process', async () => {
    const parserless = {
      getTypeParser: () => {
        throw new Error('no parser')
      },
    }
    // Of columns that were described before, and of such as come with the answer.
    for (const text of ['select 1 as n', 'select 2 as n']) {
      const own = await Connection.connect(database.target(), 5_000)
      await own.flight([{ text: 'select 1 as n' }])
      await expect(own.flight([{ text, types: parserless }])).rejects.toMatchObject({ message: 'no parser' })
      own.release()
    }
  })
})

test('what fails or warns at the commit behind the tag is the outcome of its statement', async () => {
  await observer.query('create table due (id int unique deferrable initially deferred)')
  const warning = `begin raise warning 'late'; return null; end`
  await observer.query(
    `create function warn_late() returns trigger language plpgsql as '${warning.replaceAll("'", "''")}'`,
  )
  await observer.query(`create constraint trigger late after insert on item deferrable initially deferred
    for each row execute function warn_late()`)
  const outcomes = await connection.flight([
    { text: 'insert into due values (1), (1)' },
    { text: 'insert into item values (1)' },
    { text: 'select 1' },
  ])
  expect(outcomes.map(tagOf)).toEqual(['23505', 'INSERT', 'SELECT'])
  expect(outcomes.map(warningsOf)).toEqual([[], ['late'], []])
  await observer.query('drop trigger late on item')
})

describe('a script', () => {
  test('runs several statements, and a refusal names its SQLSTATE', async () => {
    await connection.script('insert into item values (1); insert into item values (2)')
    expect(await countItems()).toBe(2)
    const refused = await rejectionOf(connection.script('insert into item values (3); select 1 / 0'))
    expect(refused).toBeInstanceOf(ServerError)
    expect(refused).toMatchObject({ sqlState: '22012' })
    expect(connection.status).toBe('idle')
    expect(await countItems()).toBe(2)
  })
})

test('a refused login is a server’s refusal; a server that is not there is a lost connection, nothing sent', async () => {
  const target = database.target()
  const wrong = await rejectionOf(Connection.connect({ ...target, password: 'wrong' }, 5_000))
  expect(wrong).toMatchObject({ sqlState: '28P01' })
  expect(await rejectionOf(Connection.connect({ ...target, port: 1 }, 5_000))).toMatchObject({ sent: false })
})

function tagOf(outcome: StatementOutcome): string {
  return outcome.ok ? outcome.tag : outcome.error.sqlState
}

function warningsOf(outcome: StatementOutcome | undefined): string[] | undefined {
  return outcome?.ok ? outcome.warnings.map((warning) => warning.message) : []
}

async function rejectionOf(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(
    (value) => Promise.reject(new Error(`resolved with ${JSON.stringify(value)}`)),
    (error: unknown) => error,
  )
}

async function countItems(): Promise<unknown> {
  const { rows } = await observer.query('select count(*)::int as n from item')
  return rows[0]?.['n']
}

async function activeBackends(): Promise<unknown> {
  const { rows } = await observer.query(
    `select count(*)::int as n from pg_stat_activity where datname = current_database() and state <> 'idle' and pid <> pg_backend_pid()`,
  )
  return rows[0]?.['n']
}

describe('joined statements', () => {
  test('D6: what stands behind one that fails is skipped, and the transaction stays', async () => {
    const outcomes = await connection.flight([
      { text: 'begin', joined: true },
      { text: 'insert into item values (1)', joined: true },
      { text: 'select 1 / 0', joined: true },
      { text: 'insert into item values (2)', joined: true },
      { text: 'commit' },
    ])
    expect(outcomes.map(tagOf)).toEqual(['BEGIN', 'INSERT', '22012', '22012', '22012'])
    expect(connection.status).toBe('failed')
    // What was skipped was not prepared, and is when it is sent again.
    await connection.flight([{ text: 'rollback' }, { text: 'insert into item values (2)' }])
    expect(await countItems()).toBe(1)
  })

  test('D6, trap 1: behind a BEGIN that fails nothing autocommits', async () => {
    const outcomes = await connection.flight([
      { text: 'begin isolation level sometimes', joined: true },
      { text: 'insert into item values (1)', joined: true },
      { text: 'commit' },
    ])
    expect(outcomes.map(tagOf)).toEqual(['42601', '42601', '42601'])
    expect(await countItems()).toBe(0)
  })

  test('each keeps its rows and warnings, and a script has a sync point of its own', async () => {
    const outcomes = await connection.flight([
      { text: 'select 1 as one', joined: true },
      { text: `do $$ begin raise warning 'mine'; end $$`, joined: true },
      { text: 'select 2 as two', joined: true },
      { text: 'select 3 as three; select 4 as four', script: true },
      { text: 'select 5 as five', joined: true },
    ])
    expect(outcomes.map((outcome) => outcome.ok && outcome.rows)).toEqual([
      [{ one: 1 }],
      [],
      [{ two: 2 }],
      [{ four: 4 }],
      [{ five: 5 }],
    ])
    expect(outcomes.map(warningsOf)).toEqual([[], ['mine'], [], [], []])
  })
})

test('a statement that was answered before is not described again, unless its columns depend on more than its text', async () => {
  await connection.query('begin')
  for (const column of ['first', 'second']) {
    await connection.query(`declare c cursor for select 1 as ${column}`)
    expect(await connection.query('fetch all from c')).toMatchObject({ rows: [{ [column]: 1 }] })
    await connection.query('close c')
    expect(await connection.query('select id, id as other from item')).toMatchObject({
      rows: [],
      fields: [{ name: 'id' }, { name: 'other' }],
    })
  }
  await connection.query('rollback')
  await connection.query('insert into item values (7)')
  for (const types of [undefined, { getTypeParser: () => (value: string) => `<${value}>` }]) {
    const [outcome] = await connection.flight([{ text: 'select id from item', ...(types && { types }) }])
    expect(outcome).toMatchObject({ rows: [{ id: types === undefined ? 7 : '<7>' }] })
  }
})

test('D4: what names no deadline has that of its connection, also a script', async () => {
  for (const wait of [
    (one: Connection) => one.query('select pg_sleep(2)'),
    (one: Connection) => one.script('select pg_sleep(2)'),
  ]) {
    const impatient = await Connection.connect(database.target(), 5_000, 200)
    await impatient.query('select pg_sleep(0.4)', [], 30_000)
    await expect(wait(impatient)).rejects.toMatchObject({ message: 'no answer within 200 ms', isLate: true })
    impatient.release()
  }
})
