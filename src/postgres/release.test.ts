import { expect, test } from 'vitest'
import type { Installed, Release, SqlFile } from './release.ts'
import {
  checksumOf,
  compareVersions,
  nameInstalled,
  nameRelease,
  packageRelease,
  planInstallation,
  releaseChecksum,
} from './release.ts'
import { statementsOf, summaryOf } from './sql-statements.ts'

const file = (name: string, text = name): SqlFile => ({ name, text })
const one = file('0001-one.sql')
const two = file('0002-two.sql')

const release: Release = { version: '1.2.0', migrations: [one, two], functions: [file('10-clock.sql')] }

const having = (migrations: readonly SqlFile[], of: Installed['release']): Installed => ({
  migrations: new Map(migrations.map((migration) => [migration.name, checksumOf([migration])])),
  release: of,
})

const current = { version: '1.2.0', checksum: releaseChecksum(release) }

test.each<[string, Installed, object]>([
  ['nothing', having([], null), { kind: 'install', pending: [one, two] }],
  ['a form without releases', having([one], null), { kind: 'install', pending: [two] }],
  ['this one', having([one, two], current), { kind: 'none needed' }],
  ['other functions', having([one, two], { version: '1.2.0', checksum: 'x' }), { kind: 'install', pending: [] }],
  ['an earlier one', having([one, two], { version: '1.1.9', checksum: 'x' }), { kind: 'install', pending: [] }],
  [
    'a later one without a migration more',
    having([one, two], { version: '1.10.0', checksum: 'x' }),
    { kind: 'newer', installed: '1.10.0 with schema 0002-two' },
  ],
  [
    'a migration more, of a form without releases',
    having([one, two, file('0003-three.sql')], null),
    { kind: 'newer', installed: 'of an earlier form with schema 0003-three' },
  ],
  ['another migration of that name', having([file(one.name, 'x')], null), { kind: 'changed', migration: one.name }],
])('U3: a server that has %s', (_, installed, installation) => {
  expect(planInstallation(installed, release)).toEqual(installation)
})

test('versions go by their numbers', () => {
  expect(compareVersions('0.10.0', '0.9.9')).toBe(1)
  expect(compareVersions('1.0', '1.0.0')).toBe(0)
  expect(compareVersions('0.1.0-beta.2', '0.1.0-beta.10')).toBe(-1)
})

test('the release of this code has a name, and files in the order of their numbers', async () => {
  const own = await packageRelease()
  expect(nameRelease(own)).toMatch(/^\d+\.\d+\.\d+ with schema \d{4}-[a-z-]+$/)
  expect(own.migrations.map(({ name }) => Number(name.slice(0, 4)))).toEqual(
    own.migrations.map((_, index) => index + 1),
  )
  expect(nameInstalled(having(own.migrations, { version: own.version, checksum: 'x' }))).toBe(nameRelease(own))
})

test('statements end at a semicolon, and not at one of a string, a body or a comment', () => {
  const text = `-- one; two
    select ';', "a;b", $$ x; $$, $f$ $$;$$ $f$; /* ; */ select 1 - 2 / 3; -- the end;`
  expect(statementsOf(text)).toEqual([
    `-- one; two\n    select ';', "a;b", $$ x; $$, $f$ $$;$$ $f$`,
    '/* ; */ select 1 - 2 / 3',
  ])
  expect(statementsOf(text).map(summaryOf)).toEqual([`select ';', "a;b", $$ x; $$, $f$ $$;$$ $f$`, 'select 1 - 2 / 3'])
})

test('what the package ships is cut without loss', async () => {
  const { migrations, functions } = await packageRelease()
  const bare = (text: string) => text.replaceAll(/[\s;]/g, '')
  for (const { name, text } of [...migrations, ...functions]) {
    const cut = bare(statementsOf(text).join(' '))
    expect(cut, name).not.toBe('')
    expect(bare(text).startsWith(cut), name).toBe(true)
  }
})
