import { resolve } from 'node:path'
import react from '@vitejs/plugin-react'
import { defineConfig } from 'vite'

// Vite and its plugin are those of the folder above. The test names the folder of the result: --outDir.
export default defineConfig({
  base: './',
  plugins: [react()],
  build: {
    target: 'es2022',
    chunkSizeWarningLimit: 10_000,
    rollupOptions: { input: ['copilotkit.html', 'assistant-ui.html'].map((page) => resolve(import.meta.dirname, page)) },
  },
})
