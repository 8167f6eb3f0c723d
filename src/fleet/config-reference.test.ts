import { readFile } from 'node:fs/promises'
import { expect, test } from 'vitest'
import { z } from 'zod'
import { parseConfig } from './config.ts'
import { configForms } from './config-form.ts'

const page = await readFile(new URL('../../docs/reference/configuration.md', import.meta.url), 'utf8')

test('the example of the reference is a configuration with every part', () => {
  const example = /```yaml\n(.*?)```/s.exec(page)?.[1] ?? ''
  const config = parseConfig(example, { baseDir: '/srv/app', file: 'configuration.md' })
  const parts = Object.entries(config).filter(([, part]) => part !== null)
  expect(parts).toHaveLength(Object.keys(configForms('/').root.shape).length)
})

test('the reference names every key', () => {
  const keysOf = (form: z.ZodType): string[] => {
    if (form instanceof z.ZodObject) {
      return Object.entries<z.ZodType>(form.shape).flatMap(([key, inner]) => [key, ...keysOf(inner)])
    }
    if (form instanceof z.ZodDiscriminatedUnion)
      return form.options.flatMap((option) => keysOf(z.instanceof(z.ZodType).parse(option)))
    if (form instanceof z.ZodDefault || form instanceof z.ZodNullable)
      return keysOf(z.instanceof(z.ZodType).parse(form.unwrap()))
    return []
  }
  const keys = Object.values(configForms('/')).flatMap(keysOf)
  expect(keys).toEqual(expect.arrayContaining(['fleet', 'webhook', 'otherwise', 'source', 'survive', 'archive']))
  expect(keys.filter((key) => !page.includes(`\`${key}\``))).toEqual([])
})
