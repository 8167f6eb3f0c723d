import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { errorTable } from '../src/base/errors.ts'
import { sqlState } from '../src/postgres/sqlstate.ts'
import { errorsReference } from './support/errors-reference.ts'
import type { SourceFile } from './support/repository-rules.ts'
import { foldersWithoutFrontDoor, raisedSqlStates, rules } from './support/repository-rules.ts'
import { blanked } from './support/source-text.ts'

const root = fileURLToPath(new URL('..', import.meta.url))

async function readFiles(): Promise<SourceFile[]> {
  const folders = ['src', 'sql', 'test', 'docs', 'scripts', 'bench', 'examples', 'console']
  const found = await Promise.all(
    folders.map(async (folder) => {
      const entries = await readdir(join(root, folder), { recursive: true, withFileTypes: true }).catch(() => [])
      const files = entries.filter((entry) => entry.isFile() && /\.(ts|sql|md|yaml)$/.test(entry.name))
      return files.map((entry) => join(entry.parentPath, entry.name)).filter((path) => !path.includes('node_modules'))
    }),
  )
  return Promise.all(
    found.flat().map(async (path) => ({
      path: path.slice(root.length).replaceAll('\\', '/'),
      text: await readFile(path, 'utf8'),
    })),
  )
}

const files = await readFiles()

describe.each(rules)('$name', ({ appliesTo, check, broken, kept }) => {
  test('in every file', () => {
    const wrong = files
      .filter((file) => appliesTo(file.path))
      .flatMap((file) => check(file).map((w) => `${file.path}: ${w}`))
    expect(wrong).toEqual([])
  })

  test.each(broken)('is broken by $text', (file) => {
    expect(appliesTo(file.path) && check(file).length > 0).toBe(true)
  })

  test.each(kept)('is kept by $text', (file) => {
    expect(appliesTo(file.path) ? check(file) : []).toEqual([])
  })
})

describe('every folder of src/ has its front door', () => {
  test('in every folder', () => {
    expect(foldersWithoutFrontDoor(files.map((file) => file.path))).toEqual([])
  })

  test('a folder without one is found; the base and a folder of tests are not', () => {
    const paths = ['src/hlc/hlc.ts', 'src/fleet/config.ts', 'src/base/clock.ts', 'src/cli/x.test.ts', 'src/index.ts']
    expect(foldersWithoutFrontDoor(paths)).toEqual(['fleet'])
  })
})

describe('SQL raises the SQLSTATEs that have a name, and every name is raised', () => {
  test('in the schema', () => {
    const named = Object.values(sqlState).filter((state) => state.startsWith('HF'))
    expect([...raisedSqlStates(files)].sort()).toEqual(named.sort())
  })

  test('one in a comment is not raised', () => {
    const text = "raise exception 'x' using errcode = 'HF001'; -- not 'HF002'"
    expect([...raisedSqlStates([{ path: 'sql/functions/x.sql', text }])]).toEqual(['HF001'])
  })
})

describe('the reference of errors is the table of errors', () => {
  test('in docs/reference/errors.md', async () => {
    await expect(errorsReference(errorTable)).toMatchFileSnapshot('../docs/reference/errors.md')
  })

  test('a code more is a row more', () => {
    const more = { ...errorTable, new_code: { category: 'internal', retry: 'safe', meaning: 'New.' } } as const
    expect(errorsReference(more)).toContain('| `new_code` | internal | safe | New. |')
    expect(errorsReference(errorTable)).not.toContain('new_code')
  })

  test('codes are lower case with underscores, meanings are sentences', () => {
    for (const [code, { meaning }] of Object.entries(errorTable)) {
      expect(code).toMatch(/^[a-z]+(_[a-z]+)*$/)
      expect(meaning).toMatch(/^[A-Z].*\.$/)
    }
  })
})

test('what is left of every file without comments and strings still has its brackets in pairs', () => {
  const pairs = [/[{}]/g, /[()]/g, /[[\]]/g] as const
  const unpaired = files.filter(({ path, text }) => {
    const code = blanked(text, 'comments and strings')
    return path.endsWith('.ts') && pairs.some((pair) => (code.match(pair)?.length ?? 0) % 2 === 1)
  })
  expect(unpaired.map((file) => file.path)).toEqual([])
})

test.each([
  ["const a = 'x' // y", "const a = ' '     "],
  ['const a = `x ${b} y` + c', 'const a = `  ${b}  ` + c'],
  ['const a = `${f({ b: `x` })}` + c', 'const a = `${f({ b: ` ` })}` + c'],
  ['a = b / c / d', 'a = b / c / d'],
  ["a = /['/]/.test('x')", "a = /    /.test(' ')"],
  ['/* x\n y */ a', '    \n      a'],
  ["a = 'it\\'s' + b", "a = '     ' + b"],
])('%j is seen as %j', (text, seen) => {
  expect(blanked(text, 'comments and strings')).toBe(seen)
})
