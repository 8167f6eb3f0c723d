import { mkdir, readdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { stringify } from 'yaml'
import { leftBehind } from '../../examples/payledger/demo/leftovers.ts'
import { runJson } from '../support/command.ts'
import { temporaryFolder } from '../support/fleet.ts'
import { oneShard } from '../support/one-shard.ts'

/** What the configuration names and `up` cannot do with: told at the start, with nothing begun. */

let root: string

beforeEach(async () => {
  root = await temporaryFolder()
})

afterEach(() => rm(root, { recursive: true, force: true, maxRetries: 5 }))

const header = '-- name: broken\n-- severity: critical\n-- needs: payroll(payroll_runs: tenant)\n'

test.each<[what: string, files: Readonly<Record<string, string>> | null, message: (folder: string) => string]>([
  ['that is not there', null, (folder) => `invariants: there is no folder ${folder}`],
  ['without a rule', { 'notes.md': 'later' }, (folder) => `invariants: ${folder} has no .sql file`],
  [
    'with a header of another form',
    { 'broken.sql': `${header.replace('critical', 'fatal')}select 1` },
    (folder) => `${folder}/broken.sql:2: severity is critical or warning`,
  ],
  [
    'with a rule of another name',
    { 'other.sql': `${header}select 1` },
    (folder) => `${folder}/other.sql:1: names broken; name it as the file`,
  ],
])('up refuses a folder of invariants %s', async (_, files, message) => {
  const folder = join(root, 'rules')
  if (files !== null) {
    await mkdir(folder)
    for (const [name, text] of Object.entries(files)) await writeFile(join(folder, name), text)
  }
  const config = { ...(await oneShard(root, { durability: 'local' })), invariants: './rules' }
  await writeFile(join(root, 'holdfast.yaml'), stringify(config))
  const said = await runJson('up', '--config', join(root, 'holdfast.yaml'))
  expect(said).toMatchObject({ code: 2, document: { error: { code: 'config_invalid', message: message(folder) } } })
  expect((await leftBehind(root)).filter((what) => what !== root)).toEqual([])
  expect(await readdir(root)).not.toContain('data')
  const doctor = await runJson('doctor', '--config', join(root, 'holdfast.yaml'))
  expect(doctor).toMatchObject({ code: 8 })
  expect(doctor.document).toContainEqual({ what: 'invariants', status: 'problem', detail: message(folder) })
})
