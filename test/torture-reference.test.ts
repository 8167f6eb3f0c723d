import { readdir, readFile } from 'node:fs/promises'
import { expect, test, vi } from 'vitest'
import { faultsOf } from './torture/faults.ts'
import { caughtElsewhere, planted } from './torture/planted.ts'
import { main } from './torture/torture.ts'
import { workloads } from './torture/workloads.ts'

const text = (path: string) => readFile(new URL(`../${path}`, import.meta.url), 'utf8')

test('every workload, fault and planted bug is in the reference, and where it is caught', async () => {
  const reference = await text('docs/reference/torture.md')
  for (const name of workloads.keys()) expect(reference).toContain(`| \`${name}\` |`)
  for (const { name } of faultsOf()) expect(reference).toContain(`\`${name}\``)
  for (const { bug, workload, fault } of planted) {
    expect(reference).toContain(`| ${bug} | \`${workload}\` under \`${fault}\` |`)
  }
  for (const { bug, file } of caughtElsewhere) expect(reference).toContain(`| ${bug} | \`${file}\``)
})

test('what can be asked for is told on request, and behind a call that makes no sense', async () => {
  const stdout = vi.spyOn(process.stdout, 'write').mockReturnValue(true)
  const stderr = vi.spyOn(process.stderr, 'write').mockReturnValue(true)
  try {
    expect(await main(['--help'])).toBe(0)
    const usage = stdout.mock.calls.join('')
    for (const name of workloads.keys()) expect(usage).toContain(name)
    expect(await main(['--minute', '3'])).toBe(2)
    expect(stderr.mock.calls.join('')).toContain('--help')
  } finally {
    vi.restoreAllMocks()
  }
})

test.each(caughtElsewhere)('$bug is caught by a test that is there', async ({ file, test: name }) => {
  expect(await text(file)).toContain(name)
})

test('every bug can be planted: the functions and views have the text that it replaces', async () => {
  const folder = 'sql/functions/'
  const files = await Promise.all(
    (await readdir(new URL(`../${folder}`, import.meta.url))).map((name) => text(folder + name)),
  )
  // What is replaced is a definition as the server tells it, with its own words in capitals.
  const bodyOf = (name: string) =>
    files.join('').split(`create or replace function holdfast.${name}(`)[1]?.split('$$;')[0]?.toLowerCase()
  const viewOf = (name: string) =>
    files.join('').split(`create or replace view holdfast.${name} as`)[1]?.split(';')[0]?.toLowerCase()
  for (const variant of planted.flatMap(({ variants = [] }) => variants)) {
    if ('function' in variant)
      expect(bodyOf(variant.function), variant.function).toContain(variant.replace.toLowerCase())
    if ('view' in variant) expect(viewOf(variant.view), variant.view).toContain(variant.replace.toLowerCase())
  }
})
