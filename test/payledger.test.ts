import { readdir } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { loadConfig } from '../src/fleet/config.ts'
import { readSqlFiles } from '../src/postgres/release.ts'
import { loadInvariants, platformDomain } from '../src/recovery/invariant.ts'

/** PayLedger as files: its configuration, schema and invariants say the same about its tables. */

const folder = fileURLToPath(new URL('../examples/payledger/', import.meta.url))
const config = await loadConfig(`${folder}holdfast.yaml`)
const domains = [...config.domains.values()]

describe('the configuration of PayLedger', () => {
  test('keeps everything that a run of it writes below its data directory', () => {
    for (const { archive } of config.regions.values()) {
      if (archive !== null) expect(archive.startsWith(`${config.dataDir}/`)).toBe(true)
    }
  })

  test('gives every shard an archive', () => {
    for (const shard of config.shards.values()) expect(shard.archive).not.toBeNull()
  })

  test.each(domains.map(({ name }) => name))(
    'names every table of domain %s that its schema makes, and no other',
    async (name) => {
      const domain = domains.find((each) => each.name === name)
      const files = await readSqlFiles(domain?.schema ?? '')
      const made = files.flatMap(({ text }) => [...text.matchAll(/create table (\w+)/g)].map(([, table]) => table))
      expect(new Set(made)).toEqual(new Set(domain?.tables))
    },
  )
})

describe('the invariants of PayLedger', () => {
  test('read only tables that their domains have', async () => {
    const invariants = await loadInvariants(`${folder}invariants`)
    expect(invariants).toHaveLength((await readdir(`${folder}invariants`)).length)
    for (const { needs } of invariants) {
      for (const { domain, table } of needs) {
        if (domain !== platformDomain) expect(config.domains.get(domain)?.tables).toContain(table)
      }
    }
  })

  test('are all critical: each of them is about money', async () => {
    for (const { severity } of await loadInvariants(`${folder}invariants`)) expect(severity).toBe('critical')
  })
})
